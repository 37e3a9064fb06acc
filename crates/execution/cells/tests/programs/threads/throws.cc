// Exceptions and jumps in several threads at once, each with its own: what one throws nobody else sees, wherever its thread stands meanwhile: in a handler that waits for a lock, in a
// destructor on the way, in the middle of work. Each thread writes down what happens to it, and the first prints that in order. Knows nothing of cells.
#include <pthread.h>

#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int THREADS = 4, ROUNDS = 60;

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_barrier_t barrier;
long counted;

struct Record {
    std::string told;
    unsigned sum = 1;
    int scopes = 0;
    std::exception_ptr kept;
};
Record records[THREADS];
thread_local int me;

void tell(const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    std::vsnprintf(line, sizeof line, format, args);
    va_end(args);
    records[me].told += line;
    records[me].told += '\n';
}

// Work without calls, in which a thread may be stopped as well.
void work(int turns) {
    unsigned sum = records[me].sum;
    for (int i = 0; i < turns; i++) {
        sum = sum * 1664525u + 1013904223u;
        sum ^= sum >> (1 + sum % 13);
    }
    records[me].sum = sum;
}

// All want it at the same time, so that most of them sleep for it.
void count() {
    pthread_mutex_lock(&lock);
    counted++;
    work(50);
    pthread_mutex_unlock(&lock);
}

struct Scope {
    Scope() { records[me].scopes++; }
    ~Scope() {
        count();
        records[me].scopes--;
    }
};

struct Problem {
    int where;
    explicit Problem(int w) : where(w) {}
    virtual ~Problem() = default;
    virtual std::string text() const { return "a problem at " + std::to_string(where); }
};
struct Flood : Problem {
    std::vector<int> depths;
    explicit Flood(int w) : Problem(w), depths(static_cast<std::size_t>(w) + 1, w) {}
    std::string text() const override { return "a flood at " + std::to_string(where) + ", " + std::to_string(depths.size()) + " depths"; }
};

int descend(int depth, int kind) {
    Scope scope;
    if (depth == 0) {
        count();
        switch (kind) {
        case 0: throw Flood(me * 10);
        case 1: throw me + 1000;
        case 2: throw std::string("words of ") + std::to_string(me);
        case 3: throw std::runtime_error("an error of " + std::to_string(me));
        default: return me;
        }
    }
    return descend(depth - 1, kind) + depth;
}

std::string catches(int depth, int kind) {
    try {
        return "came back with " + std::to_string(descend(depth, kind));
    } catch (const Problem &p) {
        count();
        return p.text();
    } catch (int number) {
        work(300);
        return "the number " + std::to_string(number);
    } catch (const std::string &words) {
        count();
        return words;
    } catch (const std::exception &e) {
        count();
        return e.what();
    }
}

// Thrown on by one that has changed it; in its handler another one is thrown and caught.
void again(int round) {
    try {
        try {
            throw Flood(me);
        } catch (Problem &p) {
            p.where += round;
            const std::string other = catches(2, 1 + round % 3);
            count();
            if (std::uncaught_exceptions() != 0)
                tell("one is on its way");
            p.where += static_cast<int>(other.size());
            throw;
        }
    } catch (const Problem &p) {
        work(100);
        if (p.where != me + round + static_cast<int>(catches(2, 1 + round % 3).size()))
            tell("it is another one: %d", p.where);
    }
}

std::jmp_buf places[THREADS];

__attribute__((noinline)) void jumps_from(int depth, int value) {
    count();
    if (depth == 0)
        std::longjmp(places[me], value);
    jumps_from(depth - 1, value);
    tell("nobody comes here");
}

// A place that is jumped to many times, while the others jump to theirs.
void jumps() {
    volatile int turns = 0;
    const int value = setjmp(places[me]);
    work(40 + value);
    turns = turns + 1;
    if (turns < 40)
        jumps_from(turns % 5, turns);
    tell("jumped %d times, the last time with %d", turns - 1, value);
}

void *run(void *arg) {
    me = static_cast<int>(reinterpret_cast<long>(arg));
    for (int round = 0; round < ROUNDS; round++) {
        const std::string said = catches(3, round % 5);
        if (round < 5)
            tell("%s", said.c_str());
        again(round);
    }
    jumps();
    try {
        descend(1, 3);
    } catch (...) {
        records[me].kept = std::current_exception();
    }
    pthread_barrier_wait(&barrier);
    // What another thread has thrown and kept.
    try {
        std::rethrow_exception(records[(me + 1) % THREADS].kept);
    } catch (const std::runtime_error &e) {
        count();
        tell("from the next one: %s", e.what());
    }
    pthread_barrier_wait(&barrier);
    records[me].kept = nullptr;
    tell("scopes that are open: %d, sum %u", records[me].scopes, records[me].sum);
    return nullptr;
}

} // namespace

int main() {
    pthread_barrier_init(&barrier, nullptr, THREADS);
    pthread_t others[THREADS];
    for (long i = 1; i < THREADS; i++)
        pthread_create(&others[i], nullptr, run, reinterpret_cast<void *>(i));
    run(nullptr);
    for (int i = 1; i < THREADS; i++)
        pthread_join(others[i], nullptr);
    for (const Record &r : records)
        std::fputs(r.told.c_str(), stdout);
    std::printf("counted %ld\n", counted);
    return 0;
}
