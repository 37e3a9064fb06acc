/* Derived datatypes: columns of a matrix as vectors, every third element by an indexed type, pairs as contiguous, a struct with
 * padding, a column resized so that several lie side by side. Sent to the next rank, received as plain words or the other way
 * round. Argument: repeats (400). */
#include <inttypes.h>
#include <mpi.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 48 };

struct particle {
    int8_t kind;
    double at[3];
    int32_t id;
};

static int rank, ranks, next, previous;
static int32_t matrix[SIDE][SIDE], other[SIDE][SIDE];

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "datatypes: %s is wrong on rank %d\n", what, rank);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static int32_t cell(int of, int row, int column)
{
    return of * 1000000 + row * 1000 + column;
}

static void exchange(const void *out, int out_count, MPI_Datatype out_type, void *in, int in_count, MPI_Datatype in_type)
{
    MPI_Sendrecv(out, out_count, out_type, next, 3, in, in_count, in_type, previous, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

static void check_columns(void)
{
    MPI_Datatype column, narrow;
    int32_t line[SIDE], block[3][SIDE];
    MPI_Type_vector(SIDE, 1, SIDE, MPI_INT32_T, &column);
    MPI_Type_commit(&column);
    memset(other, 0, sizeof other);
    exchange(&matrix[0][SIDE - 1], 1, column, &other[0][0], 1, column);
    exchange(&matrix[0][5], 1, column, line, SIDE, MPI_INT32_T);
    for (int i = 0; i < SIDE; i++) {
        must(other[i][0] == cell(previous, i, SIDE - 1) && other[i][1] == 0, "a column to a column");
        must(line[i] == cell(previous, i, 5), "a column to a line");
    }
    MPI_Type_create_resized(column, 0, sizeof(int32_t), &narrow);
    MPI_Type_commit(&narrow);
    exchange(&matrix[0][10], 3, narrow, block, 3 * SIDE, MPI_INT32_T);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < SIDE; i++)
            must(block[c][i] == cell(previous, i, 10 + c), "three columns side by side");
    MPI_Type_free(&column);
    MPI_Type_free(&narrow);
    must(column == MPI_DATATYPE_NULL, "a freed type");
}

static void check_indexed(void)
{
    MPI_Datatype pair, picked;
    MPI_Aint lower, extent;
    int lengths[SIDE / 4], starts[SIDE / 4], size, total = 0;
    int32_t words[SIDE * 4];
    MPI_Type_contiguous(2, MPI_INT32_T, &pair);
    for (int i = 0; i < SIDE / 4; i++) {
        lengths[i] = i % 3;
        starts[i] = i * 2 + (i & 1);
        total += lengths[i] * 2;
    }
    MPI_Type_indexed(SIDE / 4, lengths, starts, pair, &picked);
    MPI_Type_commit(&picked);
    MPI_Type_size(picked, &size);
    must(size == total * 4, "the size of an indexed type");
    MPI_Type_get_extent(pair, &lower, &extent);
    must(lower == 0 && extent == 8, "the extent of a pair");
    exchange(&matrix[0][0], 1, picked, words, total, MPI_INT32_T);
    for (int i = 0, at = 0; i < SIDE / 4; i++)
        for (int k = 0; k < lengths[i] * 2; k++, at++) {
            int place = starts[i] * 2 + k;
            must(words[at] == cell(previous, place / SIDE, place % SIDE), "picked pairs");
        }
    MPI_Type_free(&pair);
    MPI_Type_free(&picked);
}

static void check_struct(void)
{
    struct particle out[4], in[4];
    int lengths[3] = {1, 3, 1};
    MPI_Aint places[3] = {offsetof(struct particle, kind), offsetof(struct particle, at), offsetof(struct particle, id)};
    MPI_Datatype types[3] = {MPI_INT8_T, MPI_DOUBLE, MPI_INT32_T}, raw, particle;
    MPI_Type_create_struct(3, lengths, places, types, &raw);
    MPI_Type_create_resized(raw, 0, sizeof(struct particle), &particle);
    MPI_Type_commit(&particle);
    memset(in, 0, sizeof in);
    for (int i = 0; i < 4; i++) {
        out[i] = (struct particle){(int8_t)(rank - i), {rank + 0.5, i + 0.25, -1.0}, cell(rank, i, 0)};
    }
    exchange(out, 4, particle, in, 4, particle);
    for (int i = 0; i < 4; i++)
        must(in[i].kind == previous - i && in[i].at[0] == previous + 0.5 && in[i].at[1] == i + 0.25 && in[i].at[2] == -1.0 &&
                 in[i].id == cell(previous, i, 0), "a struct");
    MPI_Type_free(&raw);
    MPI_Type_free(&particle);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t repeats = argc > 1 ? atoi(argv[1]) : 400;
    next = (rank + 1) % ranks;
    previous = (rank + ranks - 1) % ranks;
    for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++)
            matrix[row][column] = cell(rank, row, column);
    for (int32_t i = 0; i < repeats; i++) {
        check_columns();
        check_indexed();
        check_struct();
    }
    if (rank == 0)
        printf("repeats %" PRId32 " ok\n", repeats);
    MPI_Finalize();
    return 0;
}
