// OpenMP regions in which each thread throws and catches: in loops, sections, tasks and critical parts. Knows nothing of cells.
#include <omp.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int THREADS = 3;

unsigned work(unsigned sum, int turns) {
    for (int i = 0; i < turns; i++) {
        sum = sum * 1664525u + 1013904223u;
        sum ^= sum >> (1 + sum % 13);
    }
    return sum;
}

struct Guard {
    long &left;
    ~Guard() {
#pragma omp atomic
        left++;
    }
};

long left;

unsigned checked(int i) {
    Guard guard{left};
    const unsigned got = work(static_cast<unsigned>(i), 200);
    if (i % 3 == 0)
        throw std::runtime_error("three divides " + std::to_string(i));
    if (i % 5 == 0)
        throw i;
    return got;
}

unsigned or_else(int i) {
    try {
        return checked(i);
    } catch (const std::exception &e) {
        return work(static_cast<unsigned>(std::string(e.what()).size()), 100);
    } catch (int number) {
        return static_cast<unsigned>(number);
    }
}

} // namespace

int main() {
    omp_set_num_threads(THREADS);
    unsigned sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(dynamic, 3)
    for (int i = 0; i < 3000; i++)
        sum += or_else(i);
    std::printf("loop: %u, %ld guards\n", sum, left);

    long inside = 0, caught = 0;
#pragma omp parallel
    for (int i = 0; i < 300; i++) {
#pragma omp critical
        try {
            inside++;
            if (i % 2 == 0)
                throw i;
        } catch (int) {
            caught++;
        }
    }
    std::printf("critical: %ld inside, %ld caught\n", inside, caught);

    std::vector<unsigned> made(400);
#pragma omp parallel
#pragma omp single
    for (int i = 0; i < 400; i++)
#pragma omp task firstprivate(i)
    {
        try {
            made[i] = checked(i);
        } catch (...) {
            made[i] = or_else(i);
        }
    }
    unsigned all = 0;
    for (unsigned m : made)
        all = all * 31 + m;
    std::printf("tasks: %u\n", all);

    std::string told;
#pragma omp parallel for ordered schedule(static, 1)
    for (int i = 0; i < 40; i++) {
        std::string mine;
        try {
            mine = std::to_string(checked(i) % 10);
        } catch (const std::exception &) {
            mine = "x";
        } catch (int) {
            mine = "n";
        }
#pragma omp ordered
        told += mine;
    }
    std::printf("ordered: %s\n", told.c_str());

    unsigned parts[3] = {};
#pragma omp parallel sections
    {
#pragma omp section
        parts[0] = or_else(3);
#pragma omp section
        parts[1] = or_else(5);
#pragma omp section
        parts[2] = or_else(7);
    }
    std::printf("sections: %u %u %u, %ld guards\n", parts[0], parts[1], parts[2], left);
    return 0;
}
