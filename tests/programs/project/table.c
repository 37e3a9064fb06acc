/* The table. */
#include "config.h"
#include "tally.h"

#include <math.h>
#include <stdio.h>

void tally_print(const char *name, const struct tally *tally)
{
    double evenness = 0;
    printf("%s: %lld lines, %lld words\n", name, tally->lines, tally->words);
    for (int i = 0; i < LETTERS; i++) {
        double part = tally->words > 0 ? (double)tally->letters[i] / (double)tally->words : 0;
        evenness += part * part;
        if (tally->letters[i] > 0)
            printf("  %c %4lld %6.2f %%\n", 'a' + i, tally->letters[i], 100 * part);
    }
    printf("  as if %.3f letters were used\n", evenness > 0 ? 1 / evenness : 0);
    /* For the linker to have something to find in the mathematical library. */
    printf("  rms %.4f\n", sqrt(evenness / LETTERS));
}
