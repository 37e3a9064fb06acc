/* Recursion: ways to put queens on a board. */
#include <stdio.h>
static unsigned place(unsigned all, unsigned columns, unsigned left, unsigned right) {
    if (columns == all) return 1;
    unsigned ways = 0;
    for (unsigned free = all & ~(columns | left | right); free;) {
        unsigned bit = free & -free;
        free ^= bit;
        ways += place(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return ways;
}
int main(void) {
    printf("%u\n", place((1u << 13) - 1, 0, 0, 0));
    return 0;
}
