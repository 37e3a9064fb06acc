/* Peek: tries to open each path in its arguments, for reading and for writing, and prints what came of it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    static const char *const modes[] = {"rb", "wb"};
    for (int i = 1; i < argc; i++)
        for (int m = 0; m < 2; m++) {
            errno = 0;
            FILE *file = fopen(argv[i], modes[m]);
            printf("%s (%s): %s\n", argv[i], modes[m], file != NULL ? "opened" : strerror(errno));
            if (file != NULL)
                fclose(file);
        }
    return 0;
}
