/* Dynamic programming on bytes: the edit distance of two texts. */
#include <stdio.h>
enum { N = 6000 };
static char a[N], b[N];
static int row[N + 1];
int main(void) {
    unsigned x = 7;
    for (int i = 0; i < N; i++) {
        x = x * 1103515245 + 12345;
        a[i] = 'a' + (x >> 16) % 4;
        x = x * 1103515245 + 12345;
        b[i] = 'a' + (x >> 16) % 4;
    }
    for (int j = 0; j <= N; j++) row[j] = j;
    for (int i = 1; i <= N; i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= N; j++) {
            int best = corner + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            corner = row[j];
            row[j] = best;
        }
    }
    printf("%d\n", row[N]);
    return 0;
}
