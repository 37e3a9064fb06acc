/* Sorting: quicksort of our own, with insertion at the end. */
#include <stdint.h>
#include <stdio.h>
enum { N = 1000000 };
static uint32_t a[N];
static void sort(uint32_t *v, int n) {
    while (n > 24) {
        uint32_t p = v[n / 2], s;
        int i = 0, j = n - 1;
        for (;;) {
            while (v[i] < p) i++;
            while (v[j] > p) j--;
            if (i >= j) break;
            s = v[i];
            v[i++] = v[j];
            v[j--] = s;
        }
        int left = i;
        if (left < n - left) {
            sort(v, left);
            v += left;
            n -= left;
        } else {
            sort(v + left, n - left);
            n = left;
        }
    }
    for (int i = 1; i < n; i++) {
        uint32_t s = v[i];
        int j = i;
        for (; j > 0 && v[j - 1] > s; j--) v[j] = v[j - 1];
        v[j] = s;
    }
}
int main(void) {
    uint32_t x = 2463534242u, sum = 0;
    for (int i = 0; i < N; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        a[i] = x;
    }
    sort(a, N);
    for (int i = 1; i < N; i++) {
        if (a[i - 1] > a[i]) printf("not sorted at %d\n", i);
        sum = sum * 31 + a[i];
    }
    printf("%u\n", sum);
    return 0;
}
