/* Writes more at once than a call may take: 1000 vectors of the same 8 MiB by `writev`, as often as it takes; then 5 MiB by the C library. */
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

static char block[8 << 20];

int main(void) {
    struct iovec vectors[1000];
    for (int i = 0; i < 1000; i++) {
        vectors[i].iov_base = block;
        vectors[i].iov_len = sizeof block;
    }
    memset(block, 'x', sizeof block);
    long n = writev(1, vectors, 1000);
    fprintf(stderr, "%ld\n", n);
    memset(block, 'y', sizeof block);
    return fwrite(block, 1, 5 << 20, stdout) != 5 << 20 || fflush(stdout) != 0;
}
