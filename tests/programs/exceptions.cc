// Exceptions: what C++ promises of them, with MPI calls and long loops in the frames that they pass through, in the destructors on their way and in the
// handlers. Each rank writes down what happens to it, and rank 0 prints that in order. The same output for any placement.
#include <mpi.h>

#include <any>
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

int me, ranks;
std::string told;

void tell(const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    std::vsnprintf(line, sizeof line, format, args);
    va_end(args);
    told += line;
    told += '\n';
}

// A number goes once around.
int around(int number) {
    int got = -1;
    MPI_Sendrecv(&number, 1, MPI_INT, (me + 1) % ranks, 3, &got, 1, MPI_INT, (me + ranks - 1) % ranks, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return got;
}

// Work without calls, in which a rank may be stopped as well.
unsigned work(unsigned from, int turns) {
    for (int i = 0; i < turns; i++) {
        from = from * 1664525u + 1013904223u;
        from ^= from >> (1 + from % 13);
    }
    return from;
}

// A destructor that is seen, and one in which messages travel while an exception is on its way.
struct Scope {
    const char *name;
    explicit Scope(const char *n) : name(n) { tell("begin %s", name); }
    ~Scope() { tell("end %s, on the way: %d", name, std::uncaught_exceptions()); }
};
struct Sender {
    int number;
    ~Sender() { tell("around in a destructor: %d, %u", around(number), work(static_cast<unsigned>(number), 2000)); }
};

struct Problem {
    int where;
    explicit Problem(int w) : where(w) {}
    Problem(const Problem &) = default;
    virtual ~Problem() = default;
    virtual std::string text() const { return "a problem at " + std::to_string(where); }
};
struct Flood : Problem {
    std::vector<int> depths;
    explicit Flood(int w) : Problem(w), depths(static_cast<std::size_t>(w) + 1, w) {}
    std::string text() const override { return "a flood at " + std::to_string(where) + ", " + std::to_string(depths.size()) + " depths"; }
};

int descend(int depth, int kind) {
    Scope scope(depth % 2 ? "odd" : "even");
    Sender sender{depth * 10 + kind};
    if (depth == 0) {
        tell("thrown after %d", around(kind));
        switch (kind) {
        case 0: throw Flood(around(5));
        case 1: throw 42;
        case 2: throw std::string("words");
        case 3: throw std::runtime_error("a runtime error");
        case 4: throw std::make_unique<int>(17);
        default: return kind;
        }
    }
    int got = descend(depth - 1, kind);
    return got + depth;
}

void catches(int kind) {
    try {
        tell("came back with %d", descend(3, kind));
    } catch (const Problem &p) {
        tell("caught: %s, then %d", p.text().c_str(), around(p.where));
    } catch (int number) {
        tell("caught the number %d, %u", number, work(static_cast<unsigned>(number), 3000));
    } catch (const std::string &words) {
        tell("caught %s, then %d", words.c_str(), around(static_cast<int>(words.size())));
    } catch (const std::exception &e) {
        tell("caught the exception %s", e.what());
    } catch (...) {
        tell("caught something");
    }
}

// Thrown on by one that has changed it, caught by value by the next.
void again() {
    try {
        try {
            try {
                throw Flood(2);
            } catch (Problem &p) {
                p.where += around(10);
                throw;
            }
        } catch (Flood f) {
            f.where = 0; // a copy
            tell("by value: %zu", f.depths.size());
            around(1);
            throw;
        }
    } catch (const Problem &p) {
        tell("at last: %s", p.text().c_str());
    }
}

struct Member {
    int number;
    explicit Member(int n) : number(n) {
        if (n > 2)
            throw Problem(n);
    }
    ~Member() { tell("member %d goes", number); }
};
struct Whole {
    Member a, b, c;
    Whole(int first) try : a(first), b(first + around(1)), c(first + 2) {
        tell("whole");
    } catch (Problem &p) {
        tell("not whole: %s", p.text().c_str());
    }
};

template <class Thrown, class F> void expects(const char *name, F &&f) {
    try {
        f();
        tell("%s: nothing", name);
    } catch (const Thrown &) {
        tell("%s: as it should be", name);
    }
}

void library() {
    std::vector<int> numbers(3);
    std::map<std::string, int> table;
    expects<std::out_of_range>("vector::at", [&] { numbers.at(static_cast<std::size_t>(around(3))) = 1; });
    expects<std::out_of_range>("map::at", [&] { table.at("nobody") = 1; });
    expects<std::invalid_argument>("stoi", [] { tell("%d", std::stoi("twelve")); });
    expects<std::out_of_range>("stoi of much", [] { tell("%d", std::stoi("99999999999999999999")); });
    expects<std::out_of_range>("substr", [] { tell("%s", std::string("short").substr(9).c_str()); });
    expects<std::length_error>("reserve", [&] { numbers.reserve(numbers.max_size() + 1); });
    expects<std::bad_alloc>("new", [] {
        std::size_t much = static_cast<std::size_t>(-1) / 3;
        char *volatile p = static_cast<char *>(::operator new(much));
        ::operator delete(p);
    });
    expects<std::bad_function_call>("an empty function", [] { std::function<void()>()(); });
    expects<std::bad_any_cast>("any", [] { tell("%d", std::any_cast<int>(std::any(2.5))); });
    expects<std::bad_cast>("dynamic_cast", [] {
        Problem p(1);
        tell("%zu", dynamic_cast<Flood &>(p).depths.size());
    });
}

// What was caught is kept and thrown again after everything around it has gone.
std::exception_ptr kept() {
    try {
        Scope scope("kept");
        throw std::domain_error("kept for later");
    } catch (...) {
        around(2);
        return std::current_exception();
    }
}

void nested() {
    try {
        try {
            throw std::logic_error("inner");
        } catch (...) {
            std::throw_with_nested(std::runtime_error("outer " + std::to_string(around(4))));
        }
    } catch (const std::exception &e) {
        tell("%s", e.what());
        try {
            std::rethrow_if_nested(e);
        } catch (const std::exception &inner) {
            tell("within: %s", inner.what());
        }
    }
}

// Many times, from a loop that goes on behind each.
unsigned often(int times) {
    unsigned sum = 0;
    for (int i = 0; i < times; i++) {
        try {
            sum = work(sum, 500);
            if (i % 3 == 0)
                throw Flood(i % 7);
            if (i % 3 == 1)
                throw i;
            sum += static_cast<unsigned>(around(i));
        } catch (const Problem &p) {
            sum = work(sum + static_cast<unsigned>(p.where), 300) + static_cast<unsigned>(i % 20 == 0 ? around(i) : i);
        } catch (int n) {
            sum ^= static_cast<unsigned>(n);
            continue;
        }
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int kind = 0; kind < 6; kind++)
        catches(kind);
    again();
    Whole small(0);
    try {
        Whole large(1);
    } catch (const Problem &p) {
        tell("and so outside: %s", p.text().c_str());
    }
    library();
    std::exception_ptr later = kept();
    try {
        around(6);
        std::rethrow_exception(later);
    } catch (const std::domain_error &e) {
        tell("%s", e.what());
    }
    nested();
    tell("often: %u", often(1200));
    if (me > 0) {
        MPI_Send(told.data(), static_cast<int>(told.size()), MPI_CHAR, 0, 4, MPI_COMM_WORLD);
    } else {
        for (int rank = 0; rank < ranks; rank++) {
            if (rank > 0) {
                MPI_Status status;
                int size;
                MPI_Probe(rank, 4, MPI_COMM_WORLD, &status);
                MPI_Get_count(&status, MPI_CHAR, &size);
                told.resize(static_cast<std::size_t>(size));
                MPI_Recv(&told[0], size, MPI_CHAR, rank, 4, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            }
            std::printf("rank %d\n%s", rank, told.c_str());
        }
    }
    MPI_Finalize();
    return 0;
}
