/* Hog: takes memory and uses it, until there is none; then it gives up with abort(), three named functions deep. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP __attribute__((noinline))

KEEP char *must_have(size_t bytes)
{
    char *block = malloc(bytes);
    if (block == NULL)
        abort();
    return block;
}

KEEP int load_tile(int tile)
{
    char *block = must_have(1 << 20);
    memset(block, tile, 1 << 20);
    return block[tile];
}

int main(void)
{
    int sum = 0;
    for (int tile = 0; tile < 4096; tile++)
        sum += load_tile(tile);
    printf("4 GiB were there: %d\n", sum);
    return 0;
}
