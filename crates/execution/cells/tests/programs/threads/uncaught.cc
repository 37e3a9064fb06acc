// One of several threads throws what nobody catches, in the way that is asked for; the others wait, work or throw and catch.
#include <pthread.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>

static std::string how;
static std::jmp_buf gone;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile long turns;

__attribute__((noinline)) static int remember() { return setjmp(gone); }

// Holds the lock all the time, and has exceptions of its own.
static void *busy(void *) {
    pthread_mutex_lock(&lock);
    for (;;) {
        try {
            throw 1;
        } catch (int n) {
            turns = turns + n;
        }
    }
}

static void *asleep(void *) {
    pthread_mutex_lock(&lock);
    return nullptr;
}

static void fails() {
    if (how == "jumps")
        std::longjmp(gone, 1);
    if (how == "quiet")
        pthread_exit(nullptr);
    throw std::runtime_error("the field is flooded");
}

static void *breaks(void *) {
    while (turns < 1000)
        ;
    fails();
    return nullptr;
}

int main(int, char **argv) {
    how = argv[1];
    remember();
    if (how == "handler")
        std::set_terminate([] {
            std::puts("the program's own handler");
            std::fflush(stdout);
            std::_Exit(5);
        });
    if (how == "leaves")
        std::set_terminate([] {
            std::puts("this thread alone");
            pthread_exit(nullptr);
        });
    pthread_t one, two, three;
    pthread_create(&one, nullptr, busy, nullptr);
    while (turns == 0)
        ;
    pthread_create(&two, nullptr, asleep, nullptr);
    if (how == "first")
        breaks(nullptr);
    pthread_create(&three, nullptr, breaks, nullptr);
    pthread_join(three, nullptr);
    std::puts("joined");
    std::exit(7);
}
