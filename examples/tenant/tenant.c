/* Another tenant's load: every rank computes without pause.
 *
 *   tenant [SECONDS]
 *
 * Ends after SECONDS of wall-clock time (default: it goes on until it is stopped) and prints what it has computed, so that
 * no compiler may leave the work out. It needs no MPI: started with several ranks, each does the same on its own. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Between two looks at the clock: some tens of milliseconds on a machine of today. */
enum { STEPS = 1 << 24, SECONDS_MAX = 1 << 30, EXIT_USAGE = 2 };

/* Marsaglia's xorshift: each step needs the one before, so it can't be made shorter. */
static uint64_t steps(uint64_t x)
{
    for (int32_t i = 0; i < STEPS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

int main(int argc, char **argv)
{
    long seconds = 0;
    if (argc > 2) {
        fprintf(stderr, "usage: tenant [SECONDS]\n");
        return EXIT_USAGE;
    }
    if (argc == 2) {
        char *end = NULL;
        errno = 0;
        seconds = strtol(argv[1], &end, 10);
        if (errno != 0 || end == argv[1] || *end != '\0' || seconds < 1 || seconds > SECONDS_MAX) {
            fprintf(stderr, "tenant: SECONDS is \"%s\", expected a whole number from 1 to %d\n", argv[1], (int)SECONDS_MAX);
            return EXIT_USAGE;
        }
    }
    time_t begin = time(NULL);
    uint64_t x = 0x9e3779b97f4a7c15u, done = 0;
    do {
        x = steps(x);
        done++;
    } while (seconds == 0 || time(NULL) - begin < seconds);
    printf("tenant: %" PRIu64 " x %d steps, last %016" PRIx64 "\n", done, (int)STEPS, x);
    return 0;
}
