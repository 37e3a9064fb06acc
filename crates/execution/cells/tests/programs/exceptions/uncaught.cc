// Ends by something that nothing catches, in the way that is asked for.
#include <mpi.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

static std::jmp_buf gone;

__attribute__((noinline)) static int remember() { return setjmp(gone); }

struct Loud {
    ~Loud() { std::puts("a destructor"); }
};

struct Breaks {
    ~Breaks() noexcept(false) { throw 2; }
};

__attribute__((noinline)) static void innermost(const std::string &how) {
    if (how == "runtime")
        throw std::runtime_error("the field is flooded");
    if (how == "number")
        throw 7;
    if (how == "stoi")
        std::printf("%d\n", std::stoi(how));
    if (how == "longjmp")
        std::longjmp(gone, 1);
}

static void quiet(const std::string &how) noexcept { innermost(how.substr(8)); }

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    const std::string how = argv[1];
    remember();
    if (how == "handler") {
        std::set_terminate([] {
            std::puts("the program's own handler");
            std::fflush(stdout);
            std::_Exit(5);
        });
        innermost("runtime");
    }
    if (how == "aborts") {
        std::set_terminate([] { MPI_Abort(MPI_COMM_WORLD, 9); });
        innermost("runtime");
    }
    if (how.rfind("noexcept", 0) == 0)
        quiet(how);
    if (how == "twice") {
        try {
            Breaks breaks;
            throw 1;
        } catch (int n) {
            std::printf("%d\n", n);
        }
    }
    // What is caught only to be thrown on is not caught.
    try {
        innermost(how);
    } catch (...) {
        std::puts("seen");
        std::fflush(stdout);
        throw;
    }
    MPI_Finalize();
    return 0;
}
