// SPDX-License-Identifier: MIT
// Stress of the thread pool: thread_pool_test [SECONDS [emulated]], 60 unless told, hours by hand. Random
// work, pauses, more threads than CPUs and fewer active ones, changes of affinity, signals, stops and forks
// of the process. Prints how many runs there were and how long the longest took, or what failed, and then
// exits 1. A pool that makes no progress for half a minute has failed, too. emulated: nothing forks while
// other threads run, because the child of a process under QEMU may wait for a lock of QEMU's own that such a
// thread held.
#include "base/thread_pool.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>
#include <vector>

#include "base/float_mode.h"
#include "base/os/os.h"

#if defined(__linux__)
#include <dirent.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#endif

using edgellm::ThreadPool;
using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

int n_failed = 0;
bool forks = true;

void expect(bool ok, const char* what) {
    if (ok) return;
    std::printf("%s\n", what);
    ++n_failed;
}

// ---- progress ----

std::atomic<uint64_t> n_runs{0};

#if defined(__linux__)
std::vector<int> tasks() {
    std::vector<int> ids;
    DIR* folder = opendir("/proc/self/task");
    if (folder == nullptr) return ids;
    while (const dirent* entry = readdir(folder)) {
        if (const int id = std::atoi(entry->d_name); id > 0) ids.push_back(id);
    }
    closedir(folder);
    return ids;
}

void print_tasks() {
    for (int id : tasks()) {
        char path[64], where[64] = "?";
        std::snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", id);
        if (std::FILE* file = std::fopen(path, "re")) {
            if (std::fgets(where, sizeof(where), file) == nullptr) where[0] = 0;
            std::fclose(file);
        }
        std::printf("  thread %d: %s\n", id, where);
    }
}
#else
void print_tasks() {}
#endif

// Ends the program when no run has ended for long. Time in which the process was stopped does not count: it
// counts its own looks.
class Watch {
  public:
    Watch()
        : thread_([this] {
              uint64_t last = ~uint64_t{0};
              for (int looks = 0; !ended_.load();) {
                  std::this_thread::sleep_for(milliseconds(100));
                  const uint64_t now = n_runs.load();
                  looks = now == last ? looks + 1 : 0;
                  last = now;
                  if (looks < 300) continue;
                  std::printf("no progress after %llu runs\n", static_cast<unsigned long long>(now));
                  print_tasks();
                  std::fflush(stdout);
                  std::_Exit(1);
              }
          }) {}
    ~Watch() {
        ended_ = true;
        thread_.join();
    }

  private:
    std::atomic<bool> ended_{false};
    std::thread thread_;
};

// ---- work whose result shows a thread that did not wait ----

void idle_turns(unsigned n) {
    for (unsigned i = 0; i < n; ++i) __asm__ volatile("" ::: "memory");
}

// Every thread adds up what all threads wrote before the last barrier, without atomics.
bool run_once(ThreadPool& pool, uint32_t seed, unsigned most_work, int n_barriers) {
    const size_t n = pool.active();
    std::vector<uint64_t> values(n, 0), sums(n, 0);
    pool.run([&](size_t t) {
        std::minstd_rand random(seed + static_cast<uint32_t>(t) + 1);
        for (int b = 1; b <= n_barriers; ++b) {
            idle_turns(random() % (most_work + 1));
            values[t] = static_cast<uint64_t>(b) * (t + 1);
            pool.barrier();
            for (uint64_t v : values) sums[t] += v;
            pool.barrier();
        }
    });
    n_runs.fetch_add(1);
    const auto b = static_cast<uint64_t>(n_barriers);
    const uint64_t expected = b * (b + 1) / 2 * (n * (n + 1) / 2);
    return std::all_of(sums.begin(), sums.end(), [expected](uint64_t sum) { return sum == expected; });
}

// ---- one property each ----

void only_active_threads_run() {
    ThreadPool pool(4, true);
    for (size_t n : {4, 1, 3, 2, 4}) {
        pool.set_active(n);
        std::vector<int> ran(4, 0);
        pool.run([&](size_t t) { ran[t] = 1; });
        for (size_t t = 0; t < 4; ++t) expect(ran[t] == (t < n), "other threads ran than were active");
        expect(run_once(pool, 1, 100, 3), "a barrier did not wait for all active threads");
    }
}

// Runs end though nobody is ever woken: the sleeps end by themselves.
void lost_wakes_cost_a_timeout() {
    ThreadPool pool(3, false);
    std::this_thread::sleep_for(milliseconds(5));
    edgellm::lose_wakes(true);
    const auto begin = Clock::now();
    constexpr int kRuns = 5;
    for (int i = 0; i < kRuns; ++i) expect(run_once(pool, 7, 1000, 2), "a barrier opened too early");
    const std::chrono::duration<double> took = Clock::now() - begin;
    edgellm::lose_wakes(false);
    // Each run has a start and five barriers.
    std::printf("%d runs without any wake-up: %.3f s each\n", kRuns, took.count() / kRuns);
}

void portable_parking_wakes() {
    std::atomic<uint32_t> word{0};
    std::thread sleeper([&] {
        while (word.load() == 0) edgellm::park_portably(word, 0, seconds(3600));
    });
    std::this_thread::sleep_for(milliseconds(5));
    word.store(1);
    edgellm::unpark_all_portably(word);
    sleeper.join();
    edgellm::park_portably(word, 1, milliseconds(1));  // ends by itself
    n_runs.fetch_add(1);
}

void waiting_is_counted() {
    ThreadPool pool(2, false);
    pool.run([](size_t t) {
        if (t == 1) std::this_thread::sleep_for(milliseconds(50));
    });
    pool.run([](size_t) {});
    expect(pool.slept() >= milliseconds(40), "sleep at a barrier is not counted");
}

// A thread that throws, at any place of a run, ends the run for all, and the pool goes on.
bool throws_once(ThreadPool& pool, uint32_t seed, int n_barriers) {
    const size_t n = pool.active();
    std::minstd_rand random(seed);
    const auto any = [&](size_t below) { return static_cast<size_t>(random()) % below; };
    // Each place is a thread and the number of barriers before it throws.
    const size_t thread[] = {any(n), any(n)};
    const int place[] = {static_cast<int>(any(static_cast<size_t>(n_barriers) + 1)),
                         static_cast<int>(any(static_cast<size_t>(n_barriers) + 1))};
    const int first = std::min(place[0], place[1]);
    std::atomic<int> inside{0};
    std::atomic<bool> went_on{false};
    struct Inside {
        std::atomic<int>& n;
        explicit Inside(std::atomic<int>& counter) : n(counter) { ++n; }
        ~Inside() { --n; }
    };
    bool told = false;
    try {
        pool.run([&](size_t t) {
            const Inside here(inside);
            std::minstd_rand own(seed + static_cast<uint32_t>(t));
            for (int b = 0; b <= n_barriers; ++b) {
                idle_turns(own() % 2000);
                if (b > first) went_on = true;
                for (int i = 0; i < 2; ++i) {
                    if (t == thread[i] && b == place[i]) throw std::bad_alloc();
                }
                if (b < n_barriers) pool.barrier();
            }
        });
    } catch (const std::bad_alloc&) {
        told = true;
    }
    n_runs.fetch_add(1);
    return told && inside == 0 && !went_on;
}

void exceptions_reach_the_caller() {
    for (const bool spin : {true, false}) {
        ThreadPool pool(4, spin);
        std::minstd_rand random(3);
        for (uint32_t i = 0; i < 400; ++i) {
            if (i % 16 == 0) pool.set_active(1 + random() % 4);
            expect(throws_once(pool, i, static_cast<int>(random() % 4)), "an exception of a run is lost");
            expect(run_once(pool, i, 100, 2), "a run after an exception has other results");
        }
    }
}

bool computes_well() {
    volatile float small = 1e-39f, one = 1.0f, third = 3.0f;
    return small * 0.5f > 0.0f && one / third >= 0.33333334f;
}

void caller_mode_is_given_back() {
    using edgellm::kFlushingFloats;
    edgellm::set_float_control(kFlushingFloats);
    expect(!computes_well(), "the test sets no other floating-point mode");
    {
        const edgellm::FloatMode mode;
        expect(computes_well(), "FloatMode keeps the mode of its thread");
    }
    expect(edgellm::float_control() == kFlushingFloats, "FloatMode does not give the mode back");
    ThreadPool pool(3, true);  // its threads inherit the mode of this one
    std::atomic<int> n_well{0};
    for (size_t n : {3, 1}) {
        pool.set_active(n);
        pool.run([&](size_t) { n_well += computes_well(); });
    }
    expect(n_well == 4, "threads of a pool compute in another mode than the engine's");
    expect(edgellm::float_control() == kFlushingFloats, "a run does not give the caller's mode back");
    edgellm::set_float_control(edgellm::kEngineFloats);
}

#if defined(__linux__)

// The exit status of what a forked child does; -1 if it had to be killed after half a minute.
int in_child(const std::function<int()>& fn) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) _exit(fn());
    for (int i = 0; i < 3000; ++i) {
        int status;
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
        std::this_thread::sleep_for(milliseconds(10));
        n_runs.fetch_add(1);
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return -1;
}

void forked_child_is_told() {
    auto pool = std::make_unique<ThreadPool>(3, true);
    expect(run_once(*pool, 1, 10, 1), "a barrier opened too early");
    const int status = in_child([&] {
        int told = 1;
        try {
            pool->run([](size_t) {});
        } catch (const std::runtime_error&) {
            told = 0;
        }
        pool.reset();
        return told;
    });
    expect(status == 0, "a forked child can hang or crash in a pool");
    expect(run_once(*pool, 2, 10, 1), "a fork breaks the parent's pool");
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// A child without the address space for so many stacks: the threads that did start end again.
void refused_threads_are_an_error() {
    const int status = in_child([] {
        const rlimit little{rlim_t{1} << 28, rlim_t{1} << 28};
        if (setrlimit(RLIMIT_AS, &little) != 0) return 3;
        try {
            const ThreadPool pool(512, true);
        } catch (const std::runtime_error& error) {
            return std::strstr(error.what(), "fewer threads") != nullptr ? 0 : 2;
        }
        return 4;
    });
    if (status == 4) std::printf("no threads are refused here (an emulator ignores the limit)\n");
    expect(status == 0 || status == 4, "threads that the system refuses end the process");
}
#else
void refused_threads_are_an_error() {}
#endif

// ---- what disturbs a pool ----

// While it lives: moves the process's threads to random sets of CPUs, interrupts their calls, forks.
class Disturber {
  public:
    Disturber() {
        struct sigaction action = {};
        action.sa_handler = [](int) {};  // without SA_RESTART: calls of the system end early
        sigaction(SIGUSR1, &action, nullptr);
        sched_getaffinity(0, sizeof(allowed_), &allowed_);
        thread_ = std::thread([this] { disturb(); });
    }
    ~Disturber() {
        ended_ = true;
        thread_.join();
    }

  private:
    void disturb() {
        std::minstd_rand random(5);
        const auto any = [&](size_t n) { return static_cast<size_t>(random()) % n; };
        while (!ended_.load()) {
            std::this_thread::sleep_for(std::chrono::microseconds(any(3000)));
            const std::vector<int> ids = tasks();
            if (ids.empty()) continue;
            const int id = ids[any(ids.size())];
            switch (any(16)) {
                case 0:
                    if (forks) wait_for_child(fork());
                    break;
                case 1:
                case 2:
                case 3:
                    sched_setaffinity(id, sizeof(allowed_), &allowed_);
                    break;
                case 4:
                case 5:
                    pin(id, any(static_cast<size_t>(CPU_COUNT(&allowed_))));
                    break;
                default:
                    syscall(SYS_tgkill, getpid(), id, SIGUSR1);
            }
        }
        for (int id : tasks()) sched_setaffinity(id, sizeof(allowed_), &allowed_);
    }

    static void wait_for_child(pid_t child) {
        if (child == 0) _exit(0);
        while (child > 0 && waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
        }
    }

    void pin(int id, size_t nth) {
        cpu_set_t one;
        CPU_ZERO(&one);
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(cpu, &allowed_) && nth-- == 0) CPU_SET(cpu, &one);
        }
        sched_setaffinity(id, sizeof(one), &one);
    }

    cpu_set_t allowed_;
    std::atomic<bool> ended_{false};
    std::thread thread_;
};

// A process of its own that stops this one and lets it go on, again and again.
class Stopper {
  public:
    Stopper() : child_(fork()) {
        if (child_ != 0) return;
        std::minstd_rand random(9);
        const pid_t parent = getppid();
        for (;;) {
            usleep(static_cast<useconds_t>(random() % 400'000));
            if (getppid() != parent || kill(parent, SIGSTOP) != 0) _exit(0);
            usleep(static_cast<useconds_t>(random() % 60'000));
            kill(parent, SIGCONT);
        }
    }
    ~Stopper() {
        kill(child_, SIGKILL);
        waitpid(child_, nullptr, 0);
        kill(getpid(), SIGCONT);
    }

  private:
    pid_t child_;
};

#else

void forked_child_is_told() {}
void refused_threads_are_an_error() {}
struct Disturber {
    Disturber() {}
};
struct Stopper {
    Stopper() {}
};

#endif

void stress(double for_s) {
    const Stopper stopper;  // forks first, while there is one thread
    const Watch watch;
    const Disturber disturber;
    const Time end = Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(for_s * 1000));
    const size_t cpus = edgellm::os::usable_cpus();
    std::minstd_rand random(1);
    const auto any = [&](size_t n) { return static_cast<size_t>(random()) % n; };
    const uint64_t first = n_runs.load();
    std::chrono::duration<double> longest{0};
    while (Clock::now() < end && n_failed == 0) {
        // Most of the time as many threads as CPUs, as an engine has.
        const size_t n_threads = any(3) > 0 ? std::max<size_t>(2, cpus) : 1 + any(2 * cpus + 2);
        ThreadPool pool(n_threads, n_threads <= cpus);
        const Time pool_end = Clock::now() + milliseconds(any(3000));
        const unsigned work = any(4) == 0 ? 200 : 60'000;
        while (Clock::now() < std::min(end, pool_end) && n_failed == 0) {
            if (any(200) == 0) pool.set_active(1 + any(n_threads));
            if (any(64) == 0)
                expect(throws_once(pool, static_cast<uint32_t>(random()), 5), "an exception is lost");
            if (any(64) == 0) std::this_thread::sleep_for(std::chrono::microseconds(any(30'000)));
            const auto begin = Clock::now();
            expect(run_once(pool, static_cast<uint32_t>(random()), any(50) == 0 ? 20 * work : work, 10),
                   "a barrier did not wait for all active threads");
            longest = std::max<std::chrono::duration<double>>(longest, Clock::now() - begin);
        }
    }
    std::printf("%.0f s of stress: %llu runs of 20 barriers, the longest %.3f s\n", for_s,
                static_cast<unsigned long long>(n_runs.load() - first), longest.count());
}

}  // namespace

int main(int argc, char** argv) {
    const double for_s = argc > 1 ? std::atof(argv[1]) : 60.0;
    forks = argc < 3 || std::strcmp(argv[2], "emulated") != 0;
    {
        const Watch watch;
        only_active_threads_run();
        lost_wakes_cost_a_timeout();
        portable_parking_wakes();
        waiting_is_counted();
        exceptions_reach_the_caller();
        caller_mode_is_given_back();
        if (forks) {
            forked_child_is_told();
            refused_threads_are_an_error();
        }
    }
    if (n_failed == 0) stress(for_s);
    return n_failed == 0 ? 0 : 1;
}
