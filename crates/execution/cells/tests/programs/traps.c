/* Ends in the way that its argument names: what WebAssembly says to trap, and what is beyond the memory. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int (*two)(int, int);
static int add(int a, int b) { return a + b; }
static double half(double x) { return x / 2; }
static volatile int zero, minus = -1, least = INT32_MIN;
static volatile double huge = 1e30, nan_ = 0;
static void *volatile functions[2] = {(void *)add, (void *)half};

static int deep(volatile char *above) {
    volatile char here[300];
    here[zero] = above ? above[zero] : 1;
    return deep(here) + here[0];
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    volatile char *far = (volatile char *)0xfff00000u;
    printf("begin %d\n", ((two)functions[0])(argc, 1));
    fflush(stdout);
    int r = 0;
    if (!strcmp(what, "divide")) r = 7 / zero;
    if (!strcmp(what, "remainder")) r = 7 % zero;
    if (!strcmp(what, "overflow")) r = least / minus;
    if (!strcmp(what, "load")) r = far[zero];
    if (!strcmp(what, "store")) far[zero] = 1;
    if (!strcmp(what, "copy")) memcpy((char *)far + zero, argv[0], 100000 + zero);
    if (!strcmp(what, "null")) r = ((two)(uintptr_t)(zero + 0))(1, 2);
    if (!strcmp(what, "beyond")) r = ((two)(uintptr_t)(zero + 100000))(1, 2);
    if (!strcmp(what, "signature")) r = ((two)functions[1])(1, 2);
    if (!strcmp(what, "unreachable")) __builtin_trap();
    if (!strcmp(what, "deep")) r = deep(0);
    if (!strcmp(what, "rest")) r = least % minus;
    printf("end %d %d\n", r, (int)huge == INT32_MAX);
    return 0;
}
