/* What a rank keeps for a program beside messages: operations and their functions, groups, attributes with functions that copy and delete them,
 * grids and graphs, two groups that speak with each other, infos, error handlers, matched messages, types within types. All of it is made once,
 * lives over the whole run and is used again and again. Argument: repeats (400). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank, ranks;

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "objects: rank %d: %s is wrong\n", rank, what);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* A product of 2 x 2 matrices modulo a prime: the order of operands matters. */
typedef struct {
    int64_t a[4];
} Matrix;

static Matrix times(Matrix x, Matrix y)
{
    Matrix z;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            z.a[2 * i + j] = (x.a[2 * i] * y.a[j] + x.a[2 * i + 1] * y.a[2 + j]) % 1000003;
    return z;
}

static int called;

static void multiply(void *in, void *both, int *len, MPI_Datatype *type)
{
    Matrix *x = in, *y = both;
    int size;
    MPI_Type_size(*type, &size);
    must(size == (int)sizeof(Matrix), "the type that an operation is given");
    for (int i = 0; i < *len; i++)
        y[i] = times(x[i], y[i]);
    called++;
}

static Matrix of_rank(int r, int round)
{
    return (Matrix){{r + 1, round % 97 + 1, 2 * r + 3, r * round % 89 + 1}};
}

static void check_operation(MPI_Op op, MPI_Datatype type, int round)
{
    Matrix mine[3], all[3], upto[3], root[3], expected;
    MPI_Request requests[2];
    for (int i = 0; i < 3; i++)
        mine[i] = of_rank(rank, round + i);
    MPI_Iallreduce(mine, all, 3, type, op, MPI_COMM_WORLD, &requests[0]);
    MPI_Iscan(mine, upto, 3, type, op, MPI_COMM_WORLD, &requests[1]);
    MPI_Reduce(mine, root, 3, type, op, ranks - 1, MPI_COMM_WORLD);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < 3; i++) {
        expected = of_rank(0, round + i);
        must(rank != 0 || !memcmp(&upto[i], &expected, sizeof expected), "the scan of rank 0");
        for (int r = 1; r < ranks; r++) {
            expected = times(expected, of_rank(r, round + i));
            must(r != rank || !memcmp(&upto[i], &expected, sizeof expected), "a scan by the program's operation");
        }
        must(!memcmp(&all[i], &expected, sizeof expected), "a reduction by the program's operation");
        must(rank != ranks - 1 || !memcmp(&root[i], &expected, sizeof expected), "a reduction to the last rank");
    }
}

static int copies, deletes;

static int copy(MPI_Comm comm, int key, void *extra, void *in, void *out, int *flag)
{
    (void)comm, (void)key;
    *(void **)out = (char *)in + *(int *)extra;
    *flag = 1;
    copies++;
    return MPI_SUCCESS;
}

static int delete(MPI_Comm comm, int key, void *value, void *extra)
{
    (void)comm, (void)key, (void)value, (void)extra;
    deletes++;
    return MPI_SUCCESS;
}

static void check_attributes(MPI_Comm comm, int key, int step)
{
    MPI_Comm twin;
    char *value;
    int flag, before = deletes;
    MPI_Comm_dup(comm, &twin);
    MPI_Comm_get_attr(twin, key, &value, &flag);
    must(flag && value == (char *)&rank + step, "a copied attribute");
    MPI_Comm_free(&twin);
    must(deletes == before + 1, "the deleting of an attribute");
}

/* Each tells its four neighbours on the torus. */
static int64_t check_grid(MPI_Comm grid, int round)
{
    int out[4], in[4], coords[2], dims[2], periods[2], here, next, previous;
    MPI_Comm_rank(grid, &here);
    MPI_Cart_get(grid, 2, dims, periods, coords);
    for (int i = 0; i < 4; i++)
        out[i] = here * 100 + i + round;
    MPI_Neighbor_alltoall(out, 1, MPI_INT, in, 1, MPI_INT, grid);
    for (int d = 0; d < 2; d++) {
        MPI_Cart_shift(grid, d, 1, &previous, &next);
        must(in[2 * d] == previous * 100 + 2 * d + 1 + round, "what the neighbour before tells");
        must(in[2 * d + 1] == next * 100 + 2 * d + round, "what the neighbour after tells");
    }
    return in[0] + 7 * in[3];
}

/* Even ranks speak with odd ones. */
static int64_t check_sides(MPI_Comm sides, int round)
{
    int others, sum, mine = rank + round, expected = 0, all[64];
    MPI_Comm_remote_size(sides, &others);
    MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, sides);
    for (int r = 1 - rank % 2; r < ranks; r += 2)
        expected += r + round;
    must(sum == expected, "the sum of the other side");
    MPI_Allgather(&mine, 1, MPI_INT, all, 1, MPI_INT, sides);
    for (int i = 0; i < others; i++)
        must(all[i] == 2 * i + 1 - rank % 2 + round, "what the other side gathers");
    return sum;
}

/* A message in hand while others with the same tag come and go. */
static void check_matched(int round)
{
    int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks, first = round, second = round + 1, got = -1;
    MPI_Message message;
    MPI_Status status;
    MPI_Request requests[2];
    MPI_Isend(&first, 1, MPI_INT, next, 9, MPI_COMM_WORLD, &requests[0]);
    MPI_Isend(&second, 1, MPI_INT, next, 9, MPI_COMM_WORLD, &requests[1]);
    MPI_Mprobe(previous, 9, MPI_COMM_WORLD, &message, &status);
    MPI_Recv(&got, 1, MPI_INT, previous, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    must(got == round + 1, "the message after one that was matched");
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Mrecv(&got, 1, MPI_INT, &message, &status);
    must(got == round && message == MPI_MESSAGE_NULL && status.MPI_SOURCE == previous, "a matched message");
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
}

/* The inner part of a square, sent round the ring and put in turned. */
static int64_t check_types(MPI_Datatype inner, MPI_Datatype turned, int round)
{
    double square[64], other[64];
    char packed[512];
    int at = 0, got = 0, integers, addresses, types, combiner;
    int64_t sum = 0;
    for (int i = 0; i < 64; i++)
        square[i] = rank * 64 + i + round, other[i] = -1;
    MPI_Sendrecv(square, 1, inner, (rank + 1) % ranks, 3, other, 1, turned, (rank + ranks - 1) % ranks, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++)
            must(other[8 * x + y] == (rank + ranks - 1) % ranks * 64 + 8 * (y + 2) + x + 1 + round, "a turned square");
    MPI_Pack(square, 1, inner, packed, sizeof packed, &at, MPI_COMM_WORLD);
    MPI_Unpack(packed, at, &got, other, 1, inner, MPI_COMM_WORLD);
    must(at == 128 && got == 128 && other[8 * 3 + 2] == square[8 * 3 + 2], "what was packed");
    MPI_Type_get_envelope(inner, &integers, &addresses, &types, &combiner);
    must(integers == 8 && addresses == 0 && types == 1 && combiner == MPI_COMBINER_SUBARRAY, "an envelope");
    for (int i = 0; i < 64; i++)
        sum += (int64_t)other[i] * (i + 1);
    return sum;
}

static int failures;

static void count_failure(MPI_Comm *comm, int *code, ...)
{
    int class;
    MPI_Error_class(*code, &class);
    failures += *comm != MPI_COMM_NULL && class == MPI_ERR_RANK;
}

int main(int argc, char **argv)
{
    int repeats = argc > 1 ? atoi(argv[1]) : 400, step = 3, key, dims[2] = {0, 0}, periods[2] = {1, 1}, flag;
    int sizes[2] = {8, 8}, parts[2] = {4, 4}, starts[2] = {2, 1};
    int64_t sum = 0, all;
    MPI_Op op;
    MPI_Datatype matrix, inner, column, turned;
    MPI_Comm kept, grid, parity, sides, merged;
    MPI_Group world, odd;
    MPI_Info info;
    MPI_Errhandler handler;
    char value[32];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    must(ranks >= 2 && ranks <= 64, "the number of ranks");
    MPI_Type_contiguous(4, MPI_INT64_T, &matrix);
    MPI_Type_commit(&matrix);
    MPI_Op_create(multiply, 0, &op);
    MPI_Comm_dup(MPI_COMM_WORLD, &kept);
    MPI_Comm_create_keyval(copy, delete, &key, &step);
    MPI_Comm_set_attr(kept, key, &rank);
    MPI_Comm_create_errhandler(count_failure, &handler);
    MPI_Comm_set_errhandler(kept, handler);
    MPI_Errhandler_free(&handler);
    MPI_Comm_set_name(kept, "kept over the run");
    MPI_Dims_create(ranks, 2, dims);
    MPI_Cart_create(MPI_COMM_WORLD, 2, dims, periods, 0, &grid);
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &parity);
    MPI_Intercomm_create(parity, 0, MPI_COMM_WORLD, 1 - rank % 2, 77, &sides);
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Comm_group(parity, &odd);
    MPI_Info_create(&info);
    MPI_Info_set(info, "colour", "green");
    MPI_Type_create_subarray(2, sizes, parts, starts, MPI_ORDER_C, MPI_DOUBLE, &inner);
    MPI_Type_vector(4, 1, 8, MPI_DOUBLE, &column);
    MPI_Type_create_hvector(4, 1, sizeof(double), column, &turned);
    MPI_Type_free(&column);
    MPI_Type_commit(&inner);
    MPI_Type_commit(&turned);
    for (int round = 0; round < repeats; round++) {
        int to, from = rank, size;
        check_operation(op, matrix, round);
        check_attributes(kept, key, step);
        sum += check_grid(grid, round);
        sum = sum * 31 % 1000000007 + check_sides(sides, round);
        check_matched(round);
        sum = (sum + check_types(inner, turned, round)) % 1000000007;
        MPI_Intercomm_merge(sides, rank % 2, &merged);
        MPI_Comm_rank(merged, &from);
        must(from == rank / 2 + (rank % 2 ? (ranks + 1) / 2 : 0), "a rank in a merged communicator");
        MPI_Comm_free(&merged);
        MPI_Group_size(odd, &size);
        from = rank / 2;
        MPI_Group_translate_ranks(odd, 1, &from, world, &to);
        must(to == rank && size == (ranks + 1 - rank % 2) / 2, "a rank of a group");
        MPI_Info_get(info, "colour", sizeof value - 1, value, &flag);
        must(flag && !strcmp(value, "green"), "an info");
        MPI_Send(&from, 1, MPI_INT, ranks, 0, kept);
        must(failures == round + 1, "the call of an error handler");
    }
    MPI_Comm_get_name(kept, value, &flag);
    must(!strcmp(value, "kept over the run") && copies == repeats, "what was kept");
    MPI_Comm_free(&kept);
    must(deletes == repeats + 1, "the deleting of the last attribute");
    MPI_Allreduce(&sum, &all, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    must(called > 0, "that the operation was called");
    if (rank == 0)
        printf("objects: %d repeats on %d ranks, checksum %" PRId64 "\n", repeats, ranks, all);
    MPI_Comm_free_keyval(&key);
    MPI_Op_free(&op);
    MPI_Finalize();
    return 0;
}
