/* Numbers to their last bit: sums and products of doubles and floats in a loop that has safe points, square roots, roundings, conversions, numbers that are
 * almost zero, the C library's functions, vectors. Prints bits, of which all but those of a NaN are the same on any machine; a NaN is printed as `NaN`.
 * Arguments: turns (20000); with a second one, `nan`, also what bits the NaNs have: those of one that was computed at the beginning of the run and kept, and of one
 * that is computed at its end. */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 64, LANES = 4 };

typedef float vector __attribute__((vector_size(16)));

static uint64_t bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static void print(const char *what, double x)
{
    if (isnan(x))
        printf("%-12s NaN\n", what);
    else
        printf("%-12s %016" PRIx64 " %.17g\n", what, bits(x), x);
}

/* The compiler must not know what it is. */
static volatile double zero = 0.0, infinite = INFINITY;

int main(int argc, char **argv)
{
    int turns = argc > 1 ? atoi(argv[1]) : 20000;
    static double kept[KEPT];
    double early = zero / zero, sum = 0.0, product = 1.0, chaos = 0.3, tiny = 0.0, below = 0.0, functions = 0.0;
    float narrow = 1.0f;
    vector lanes = {1.0f, 2.0f, 3.0f, 4.0f};
    int64_t whole = 0;
    /* A quiet NaN and one that tells by its low bits where it comes from: memory keeps both. */
    uint64_t told = UINT64_C(0x7ff8000000abcdef);
    memcpy(&kept[KEPT - 1], &told, sizeof told);
    for (int i = 1; i <= turns; i++) {
        double x = 1.0 / i;
        sum += x * x;
        product *= 1.0 + x * 1e-3;
        /* Each step doubles an error of the last bit, so one bit that differs is everything soon. */
        chaos = 3.99 * chaos * (1.0 - chaos);
        tiny = tiny > 0.0 ? tiny * 0.5 : 4e-310;
        below += tiny;
        narrow = narrow * 0.999f + (float)x;
        lanes = lanes * (vector){0.5f, 0.25f, 0.75f, 0.9f} + (vector){narrow, (float)x, -narrow, 1.0f};
        whole += (int64_t)(chaos * 1e15) ^ (int64_t)lrint(sum * 1e6);
        kept[i % (KEPT - 1)] = sqrt(chaos) - floor(chaos * 16.0) + copysign(x, chaos - 0.5) + nearbyint(product * 10.0);
        if (i % 16 == 0)
            functions += sin(chaos) + exp(-x) * log1p(x) + pow(chaos, x) + atan2(x, chaos) + fmod(sum, x) + cbrt(product) + (double)tgammaf(1.0f + (float)chaos);
    }
    double all = 0.0;
    for (int i = 0; i < KEPT - 1; i++)
        all += kept[i];
    print("sum", sum);
    print("product", product);
    print("chaos", chaos);
    print("tiny", tiny);
    print("below", below);
    print("narrow", narrow);
    print("kept", all);
    print("functions", functions);
    for (int i = 0; i < LANES; i++)
        print("lane", lanes[i]);
    printf("%-12s %" PRId64 "\n", "whole", whole);
    print("early", early);
    print("late", infinite - infinite);
    print("told", kept[KEPT - 1]);
    printf("%-12s %d\n", "its bits", bits(kept[KEPT - 1]) == told);
    if (argc > 2 && strcmp(argv[2], "nan") == 0) {
        double late = infinite - infinite, root = sqrt(zero - 1.0);
        printf("early %016" PRIx64 " %f\nlate %016" PRIx64 " %f\nroot %016" PRIx64 " %f\nthrough %016" PRIx64 "\n", bits(early), early, bits(late), late, bits(root), root, bits(kept[KEPT - 1] + 1.0));
    }
    return 0;
}
