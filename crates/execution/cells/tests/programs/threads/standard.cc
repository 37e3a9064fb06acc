// What C++ promises of its own threads, each counted or ordered so that a lost or doubled step shows. Knows nothing of cells.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

namespace {

constexpr int THREADS = 4;

unsigned work(unsigned sum, int turns) {
    for (int i = 0; i < turns; i++) {
        sum = sum * 1664525u + 1013904223u;
        sum ^= sum >> (1 + sum % 13);
    }
    return sum;
}

void on_all(const std::function<void(int)> &f) {
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; i++)
        threads.emplace_back(f, i);
    for (auto &t : threads)
        t.join();
}

void mutexes() {
    std::mutex m;
    std::recursive_mutex again;
    std::shared_mutex many;
    std::timed_mutex timed;
    long counted = 0, deeper = 0, torn = 0, pair[2] = {}, late = 0;
    std::atomic<long> atomic{0};
    on_all([&](int me) {
        for (int i = 0; i < 2000; i++) {
            std::lock_guard<std::mutex> lock(m);
            counted++;
            atomic.fetch_add(i, std::memory_order_relaxed);
        }
        for (int i = 0; i < 500; i++) {
            std::lock_guard<std::recursive_mutex> one(again);
            std::lock_guard<std::recursive_mutex> two(again);
            deeper++;
        }
        for (int i = 0; i < 500; i++)
            if (i % 5 == me) {
                std::unique_lock<std::shared_mutex> lock(many);
                pair[0]++;
                pair[1]++;
            } else {
                std::shared_lock<std::shared_mutex> lock(many);
                if (pair[0] != pair[1])
                    atomic += 1000000000;
            }
    });
    torn = atomic / 1000000000;
    timed.lock();
    std::thread([&] { late = !timed.try_lock_for(3ms); }).join();
    timed.unlock();
    // Both at once, in either order.
    std::mutex a, b;
    long both = 0;
    on_all([&](int me) {
        for (int i = 0; i < 300; i++) {
            std::scoped_lock lock(me % 2 ? a : b, me % 2 ? b : a);
            both++;
        }
    });
    std::printf("mutexes: %ld, %ld, %ld of %ld torn, late %ld, both %ld, atomic %ld\n", counted, deeper, torn, pair[0], late, both, atomic.load() % 1000000000);
}

// A queue with room for a few: who makes waits for who takes, and the other way round.
void conditions() {
    std::mutex m;
    std::condition_variable room, there;
    std::deque<int> queue;
    long long taken = 0;
    int left = 2;
    std::vector<std::thread> threads;
    for (int maker = 0; maker < 2; maker++)
        threads.emplace_back([&, maker] {
            for (int i = 0; i < 1500; i++) {
                std::unique_lock<std::mutex> lock(m);
                room.wait(lock, [&] { return queue.size() < 4; });
                queue.push_back(i * 2 + maker);
                there.notify_one();
            }
            std::lock_guard<std::mutex> lock(m);
            left--;
            there.notify_all();
        });
    for (int taker = 0; taker < 2; taker++)
        threads.emplace_back([&] {
            for (;;) {
                std::unique_lock<std::mutex> lock(m);
                there.wait(lock, [&] { return !queue.empty() || left == 0; });
                if (queue.empty())
                    return;
                taken += queue.front();
                queue.pop_front();
                room.notify_one();
            }
        });
    for (auto &t : threads)
        t.join();
    std::unique_lock<std::mutex> lock(m);
    const bool late = there.wait_for(lock, 2ms, [] { return false; });
    std::printf("conditions: %lld taken, %d left, woken %d\n", taken, static_cast<int>(queue.size()), late);
}

int sum_of(const std::vector<int> &v, std::size_t from, std::size_t to) {
    if (to - from < 100)
        return std::accumulate(v.begin() + static_cast<long>(from), v.begin() + static_cast<long>(to), 0);
    const std::size_t middle = (from + to) / 2;
    auto half = std::async(std::launch::async, sum_of, std::cref(v), from, middle);
    const int rest = sum_of(v, middle, to);
    return half.get() + rest;
}

void futures() {
    std::vector<int> v(1500);
    std::iota(v.begin(), v.end(), 1);
    std::printf("async: %d\n", sum_of(v, 0, v.size()));
    auto later = std::async(std::launch::deferred, [] { return std::string("deferred"); });
    auto fails = std::async(std::launch::async, []() -> int { throw std::runtime_error("thrown in a task"); });
    std::printf("%s\n", later.get().c_str());
    try {
        std::printf("%d\n", fails.get());
    } catch (const std::runtime_error &e) {
        std::printf("caught: %s\n", e.what());
    }
    std::promise<int> promise;
    std::shared_future<int> shared = promise.get_future().share();
    std::atomic<int> seen{0};
    std::thread sets([&] {
        std::this_thread::sleep_for(1ms);
        promise.set_value(work(3, 1000) % 100);
    });
    on_all([&](int) { seen += shared.get(); });
    sets.join();
    std::packaged_task<int(int)> task([](int n) { return n * n; });
    auto squared = task.get_future();
    std::thread(std::move(task), 12).join();
    std::promise<void> broken;
    auto never = broken.get_future();
    { std::promise<void> gone(std::move(broken)); }
    try {
        never.get();
    } catch (const std::future_error &e) {
        std::printf("broken: %d\n", e.code() == std::future_errc::broken_promise);
    }
    std::printf("shared: %d, squared: %d\n", seen.load(), squared.get());
    // At the thread's end, after its variables have gone.
    std::promise<int> at_end;
    std::thread([&] { at_end.set_value_at_thread_exit(5); }).join();
    std::printf("at the end: %d\n", at_end.get_future().get());
}

std::atomic<int> made{0}, gone{0}, order{0};

struct Own {
    int number = ++made;
    std::unique_ptr<int> memory = std::make_unique<int>(number);
    ~Own() {
        gone += *memory > 0;
        // The last that was made goes first.
        order += before == 0 ? 100 : 1;
    }
    int before = 0;
};
thread_local Own own;

struct Static {
    std::map<int, std::string> texts;
    explicit Static(std::atomic<int> &times) {
        times++;
        for (int i = 0; i < 100; i++)
            texts[i] = std::to_string(i);
    }
};

void once() {
    static std::once_flag flag;
    std::atomic<int> calls{0}, times{0}, right{0};
    std::once_flag fails;
    std::atomic<int> tries{0};
    on_all([&](int) {
        for (int i = 0; i < 50; i++)
            std::call_once(flag, [&] { calls++; });
        static Static all(times);
        right += all.texts[42] == "42";
        // Who throws has not done it.
        for (int i = 0; i < 3; i++)
            try {
                std::call_once(fails, [&] {
                    if (++tries < 3)
                        throw tries.load();
                });
            } catch (int) {
            }
        own.before = 1;
        thread_local Own another;
        another.before = 0;
    });
    std::printf("once: %d, %d, %d, tries %d\n", calls.load(), times.load(), right.load(), tries.load());
    std::printf("of threads: %d made, %d gone, order %d\n", made.load(), gone.load(), order.load());
}

void others() {
    std::shared_ptr<int> shared = std::make_shared<int>(4);
    on_all([&](int) {
        for (int i = 0; i < 2000; i++) {
            std::shared_ptr<int> copy = shared;
            std::weak_ptr<int> weak = copy;
            if (!weak.lock())
                std::printf("it has gone\n");
        }
    });
    std::printf("shared by %ld\n", shared.use_count());
    std::thread::id ids[2] = {std::this_thread::get_id(), {}};
    std::thread t([&] { ids[1] = std::this_thread::get_id(); });
    const bool joinable = t.joinable();
    t.join();
    std::printf("ids differ: %d, joinable %d, then %d, several processors: %d\n", ids[0] != ids[1], joinable, t.joinable(), std::thread::hardware_concurrency() > 0);
    try {
        t.join();
    } catch (const std::system_error &e) {
        std::printf("joined twice: %d\n", e.code() == std::errc::invalid_argument || e.code() == std::errc::no_such_process);
    }
    std::vector<std::string> told(THREADS);
    on_all([&](int me) {
        for (int i = 0; i < 40; i++) {
            std::ostringstream out;
            out << "thread " << me << ": " << work(static_cast<unsigned>(me), i) << ' ' << i / 4.0;
            told[static_cast<std::size_t>(me)] = out.str();
        }
    });
    for (const auto &line : told)
        std::puts(line.c_str());
    const auto begin = std::chrono::steady_clock::now();
    std::this_thread::sleep_for(2ms);
    std::printf("slept: %d\n", std::chrono::steady_clock::now() - begin >= 2ms);
}

struct Last {
    ~Last() { std::puts("the first thread's variable goes before the program's"); }
};
struct Everybodys {
    ~Everybodys() { std::puts("the program's variable goes"); }
};
Last &last() {
    static thread_local Last variable;
    return variable;
}
Everybodys everybodys;

} // namespace

int main() {
    last();
    mutexes();
    conditions();
    futures();
    once();
    others();
    return 0;
}
