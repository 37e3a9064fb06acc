/* What an allocation takes of a cell's memory: for each size given in bytes, whether malloc gives it and by how much the memory grows. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        size_t before = __builtin_wasm_memory_size(0);
        char *volatile p = malloc(strtoul(argv[i], NULL, 10));
        printf("%s %s %lu\n", argv[i], p ? "given" : "refused", (unsigned long)((__builtin_wasm_memory_size(0) - before) * 65536));
        free(p);
    }
    return 0;
}
