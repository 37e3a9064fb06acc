/* Escape: rank 0 tries to open files that a program in a sandbox must not see, by absolute paths and by climbing, for reading and
 * for changing (nothing is changed). Prints the name of each errno; natively most succeed. No arguments. */
#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

static const char *name_of(int error)
{
    switch (error) {
    case ENOENT: return "ENOENT";
    case EACCES: return "EACCES";
    case EPERM: return "EPERM";
    case ENOTDIR: return "ENOTDIR";
    case EISDIR: return "EISDIR";
    case EINVAL: return "EINVAL";
    case EBADF: return "EBADF";
    case ELOOP: return "ELOOP";
    case EROFS: return "EROFS";
    case ENOSYS: return "ENOSYS";
    case EIO: return "EIO";
    case EXDEV: return "EXDEV";
    case ENAMETOOLONG: return "ENAMETOOLONG";
    case EILSEQ: return "EILSEQ";
#ifdef ENOTCAPABLE
    case ENOTCAPABLE: return "ENOTCAPABLE";
#endif
    default: return "another";
    }
}

struct attempt {
    const char *path;
    const char *mode;
};

int main(int argc, char **argv)
{
    static const struct attempt attempts[] = {
        {"/etc/passwd", "rb"},           {"/etc/passwd", "r+b"},        {"../../etc/passwd", "rb"},
        {"../../../../../../etc/passwd", "rb"}, {"/../../../etc/passwd", "rb"}, {"./../../../../../etc/passwd", "rb"},
        {"/out/../../../etc/passwd", "rb"}, {"//etc//passwd", "rb"},     {"/proc/self/environ", "rb"},
        {"/proc/1/root/etc/passwd", "rb"},  {"/dev/zero", "rb"},         {"/sys/kernel/mm/transparent_hugepage/enabled", "rb"},
    };
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int32_t opened = 0, all = (int32_t)(sizeof attempts / sizeof attempts[0]);
    for (int32_t i = 0; i < all && rank == 0; i++) {
        errno = 0;
        FILE *file = fopen(attempts[i].path, attempts[i].mode);
        printf("%s (%s): %s\n", attempts[i].path, attempts[i].mode, file != NULL ? "opened" : name_of(errno));
        if (file != NULL) {
            opened++;
            fclose(file);
        }
    }
    if (rank == 0)
        printf("opened %" PRId32 " of %" PRId32 "\n", opened, all);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
