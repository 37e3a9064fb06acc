/* Reductions: every predefined operation on every type it is allowed for, by Allreduce, checked against a loop over what all
 * ranks contributed. Floats only hold small whole numbers and powers of two, so any order gives the same. Argument: repeats (200). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 7 };

static int32_t checks;

/* What rank r contributes at place i: small, with zeros among them. */
static int32_t value_of(int r, int i)
{
    return (r * 5 + i * 3) % 4;
}

static void must(int ok, const char *type, const char *op)
{
    checks++;
    if (!ok) {
        fprintf(stderr, "reduce_ops: %s of %s is wrong\n", op, type);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* One operation on one type: `fold` joins `a` (so far) and `b` (the next rank's). */
#define CHECK(type, handle, op, fold)                                                                                                \
    do {                                                                                                                             \
        type own_[WIDTH], got_[WIDTH];                                                                                               \
        for (int i_ = 0; i_ < WIDTH; i_++)                                                                                           \
            own_[i_] = (type)value_of(rank, i_);                                                                                     \
        MPI_Allreduce(own_, got_, WIDTH, handle, op, MPI_COMM_WORLD);                                                                \
        for (int i_ = 0; i_ < WIDTH; i_++) {                                                                                         \
            type a = (type)value_of(0, i_);                                                                                          \
            for (int r_ = 1; r_ < ranks; r_++) {                                                                                     \
                type b = (type)value_of(r_, i_);                                                                                     \
                a = (type)(fold);                                                                                                    \
            }                                                                                                                        \
            must(got_[i_] == a, #handle, #op);                                                                                       \
        }                                                                                                                            \
    } while (0)

#define CHECK_ARITHMETIC(type, handle)                                                                                               \
    CHECK(type, handle, MPI_SUM, a + b);                                                                                             \
    CHECK(type, handle, MPI_PROD, a *b);                                                                                             \
    CHECK(type, handle, MPI_MAX, a > b ? a : b);                                                                                     \
    CHECK(type, handle, MPI_MIN, a < b ? a : b)

#define CHECK_INTEGER(type, handle)                                                                                                  \
    CHECK_ARITHMETIC(type, handle);                                                                                                  \
    CHECK(type, handle, MPI_LAND, (a != 0) && (b != 0));                                                                             \
    CHECK(type, handle, MPI_LOR, (a != 0) || (b != 0));                                                                              \
    CHECK(type, handle, MPI_LXOR, (a != 0) != (b != 0));                                                                             \
    CHECK(type, handle, MPI_BAND, a &b);                                                                                             \
    CHECK(type, handle, MPI_BOR, a | b);                                                                                             \
    CHECK(type, handle, MPI_BXOR, a ^ b)

#define CHECK_PLACES(type, handle)                                                                                                   \
    do {                                                                                                                             \
        struct { type value; int place; } own_ = {(type)((rank * 3) % 4), rank}, most_, least_;                                      \
        int high_ = 0, low_ = 0;                                                                                                     \
        for (int r_ = 1; r_ < ranks; r_++) {                                                                                         \
            high_ = (r_ * 3) % 4 > (high_ * 3) % 4 ? r_ : high_;                                                                     \
            low_ = (r_ * 3) % 4 < (low_ * 3) % 4 ? r_ : low_;                                                                        \
        }                                                                                                                            \
        MPI_Allreduce(&own_, &most_, 1, handle, MPI_MAXLOC, MPI_COMM_WORLD);                                                         \
        MPI_Allreduce(&own_, &least_, 1, handle, MPI_MINLOC, MPI_COMM_WORLD);                                                        \
        must(most_.place == high_ && most_.value == (type)((high_ * 3) % 4), #handle, "MPI_MAXLOC");                                 \
        must(least_.place == low_ && least_.value == (type)((low_ * 3) % 4), #handle, "MPI_MINLOC");                                 \
    } while (0)

static void check_integers(int rank, int ranks)
{
    CHECK_INTEGER(signed char, MPI_SIGNED_CHAR);
    CHECK_INTEGER(unsigned char, MPI_UNSIGNED_CHAR);
    CHECK_INTEGER(short, MPI_SHORT);
    CHECK_INTEGER(unsigned short, MPI_UNSIGNED_SHORT);
    CHECK_INTEGER(int, MPI_INT);
    CHECK_INTEGER(unsigned, MPI_UNSIGNED);
    CHECK_INTEGER(long, MPI_LONG);
    CHECK_INTEGER(unsigned long, MPI_UNSIGNED_LONG);
    CHECK_INTEGER(long long, MPI_LONG_LONG);
    CHECK_INTEGER(unsigned long long, MPI_UNSIGNED_LONG_LONG);
    CHECK_INTEGER(int8_t, MPI_INT8_T);
    CHECK_INTEGER(uint8_t, MPI_UINT8_T);
    CHECK_INTEGER(int16_t, MPI_INT16_T);
    CHECK_INTEGER(uint16_t, MPI_UINT16_T);
    CHECK_INTEGER(int32_t, MPI_INT32_T);
    CHECK_INTEGER(uint32_t, MPI_UINT32_T);
    CHECK_INTEGER(int64_t, MPI_INT64_T);
    CHECK_INTEGER(uint64_t, MPI_UINT64_T);
}

static void check_others(int rank, int ranks)
{
    CHECK_ARITHMETIC(float, MPI_FLOAT);
    CHECK_ARITHMETIC(double, MPI_DOUBLE);
    CHECK_ARITHMETIC(long double, MPI_LONG_DOUBLE);
    CHECK(double _Complex, MPI_C_DOUBLE_COMPLEX, MPI_SUM, a + b);
    CHECK(double _Complex, MPI_C_DOUBLE_COMPLEX, MPI_PROD, a *b);
    CHECK(long double _Complex, MPI_C_LONG_DOUBLE_COMPLEX, MPI_SUM, a + b);
    CHECK(long double _Complex, MPI_C_LONG_DOUBLE_COMPLEX, MPI_PROD, a *b);
    CHECK(uint8_t, MPI_BYTE, MPI_BAND, a &b);
    CHECK(uint8_t, MPI_BYTE, MPI_BOR, a | b);
    CHECK(uint8_t, MPI_BYTE, MPI_BXOR, a ^ b);
    CHECK_PLACES(int, MPI_2INT);
    CHECK_PLACES(short, MPI_SHORT_INT);
    CHECK_PLACES(long, MPI_LONG_INT);
    CHECK_PLACES(float, MPI_FLOAT_INT);
    CHECK_PLACES(double, MPI_DOUBLE_INT);
    CHECK_PLACES(long double, MPI_LONG_DOUBLE_INT);
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t repeats = argc > 1 ? atoi(argv[1]) : 200;
    for (int32_t i = 0; i < repeats; i++) {
        check_integers(rank, ranks);
        check_others(rank, ranks);
    }
    if (rank == 0)
        printf("checks %" PRId32 " ok\n", checks);
    MPI_Finalize();
    return 0;
}
