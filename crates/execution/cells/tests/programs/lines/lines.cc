// Fails while it handles an exception, or in a thread; the marks are as in lines.c.
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#ifdef THREADS
#include <thread>
#endif

volatile int zero;

namespace field {
struct Plant {
    std::string name;
    __attribute__((noinline)) int water(int x) {
        if (x > zero) throw std::runtime_error(name);
        return x;
    }
};
}

__attribute__((noinline)) int handles(int x) {
    field::Plant plant{"the field is flooded"};
    try {
        return plant.water(x);
    } catch (const std::exception &e) {
        std::puts(e.what());
        return x / zero; // at: handles
    }
}

int main(int argc, char **argv) {
    int result = 0;
#ifdef THREADS
    std::thread([&] {
        result = handles(argc); // at: thread
    }).join();
#else
    if (argc > 1) result = handles(argc); // at: main handles
#endif
    std::printf("%d\n", result);
}
