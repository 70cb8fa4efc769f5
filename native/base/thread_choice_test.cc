// SPDX-License-Identifier: MIT
// The choice of threads on machines that are made up: steps take a given time for each number of threads.
// Prints what failed and exits 1.
#include "base/thread_choice.h"

#include <cstdio>
#include <map>
#include <random>

namespace {

int n_failed = 0;

// Milliseconds of a step on a number of threads, and the share of their time that they sleep.
struct Cost {
    double wall, slept;
};
using Machine = std::map<size_t, Cost>;

// Steps on one machine after another; noise: how much longer a step may take by chance.
class Simulation {
  public:
    explicit Simulation(size_t n_threads, double noise = 0.0, size_t n_first = 0)
        : choice_(n_threads, n_first), noise_(noise) {}

    // Milliseconds of n steps, each of `sizes` in turn.
    double run(const Machine& machine, int n, std::vector<size_t> sizes = {1}) {
        double sum = 0;
        for (int i = 0; i < n; ++i) {
            const size_t size = sizes[static_cast<size_t>(i) % sizes.size()];
            const size_t threads = choice_.threads(size);
            const Cost cost = machine.at(threads);
            const double wall = cost.wall * (1 + noise_ * uniform_(random_));
            choice_.record(size, wall * 1e-3, wall * 1e-3 * cost.slept * static_cast<double>(threads));
            sum += wall;
        }
        return sum;
    }

  private:
    edgellm::ThreadChoice choice_;
    double noise_;
    std::minstd_rand random_{1};
    std::uniform_real_distribution<double> uniform_;
};

void expect(bool ok, const char* what, double figure) {
    if (ok) return;
    std::printf("%s: %.3f\n", what, figure);
    ++n_failed;
}

const Machine kQuiet = {{1, {20, 0}}, {2, {10, 0.01}}, {3, {7, 0.01}}, {4, {5, 0.02}}};
const Machine kBusy = {{1, {21, 0}}, {2, {180, 0.45}}, {3, {200, 0.6}}, {4, {250, 0.7}}};
// Fewer threads are slower, though some time is slept.
const Machine kUneven = {{1, {20, 0}}, {2, {12, 0.2}}, {3, {9, 0.3}}, {4, {8, 0.3}}};

void quiet_steps_keep_all_threads() {
    for (size_t n : {1, 2, 3, 4}) {
        Simulation quiet(n, 0.2);
        const double ratio = quiet.run(kQuiet, 1000) / (1000 * 1.1 * kQuiet.at(n).wall);
        expect(ratio < 1.01, "steps of a quiet machine take longer", ratio);
    }
}

void busy_steps_cost_little_more_than_one_thread() {
    for (size_t n : {2, 3, 4}) {
        for (double noise : {0.0, 0.5}) {
            Simulation busy(n, noise);
            const double begin = busy.run(kBusy, 20);
            expect(begin < 1000 + 20 * 25, "it takes long until fewer threads run, ms", begin);
            const double ratio = busy.run(kBusy, 600) / (600 * (1 + noise / 2) * kBusy.at(1).wall);
            expect(ratio < 1.1, "steps of a busy machine take longer than one thread's", ratio);
            // Back to quiet: after some seconds all threads run again.
            busy.run(kQuiet, 300);
            const double after = busy.run(kQuiet, 300) / (300 * (1 + noise / 2) * kQuiet.at(n).wall);
            expect(after < 1.05, "fewer threads stay when the machine is quiet again", after);
        }
    }
}

void sleep_alone_is_no_reason() {
    for (size_t n : {2, 4}) {
        Simulation uneven(n, 0.1);
        const double ratio = uneven.run(kUneven, 2000) / (2000 * 1.05 * kUneven.at(n).wall);
        expect(ratio < 1.02, "trials of fewer threads take much time", ratio);
    }
}

// Several sequences of a large model: each step of a trial costs as much as many barriers.
void trials_of_long_steps_are_short() {
    const Machine machine = {{1, {95, 0}}, {2, {50, 0.2}}};
    Simulation large(2, 0.1);
    const double ratio = large.run(machine, 400) / (400 * 1.05 * machine.at(2).wall);
    expect(ratio < 1.015, "trials of long steps take much time", ratio);
}

void steps_of_other_sizes_do_not_confuse() {
    Simulation mixed(2);
    mixed.run(kBusy, 40, {1, 1, 1, 9});
    const double ratio = mixed.run(kBusy, 600, {1, 1, 1, 9}) / (600 * kBusy.at(1).wall);
    expect(ratio < 1.1, "steps of mixed sizes take longer than one thread's", ratio);
}

// Two fast cores and two slow ones.
void slow_cores_take_part_where_they_help() {
    const Machine hindered = {{1, {10, 0}}, {2, {5, 0.01}}, {3, {7, 0.3}}, {4, {8, 0.4}}};
    const Machine helped = {{1, {10, 0}}, {2, {5, 0.01}}, {3, {4.5, 0.02}}, {4, {4, 0.02}}};
    for (double noise : {0.0, 0.2}) {
        Simulation slow(4, noise, 2);
        const double alone = slow.run(hindered, 2000) / (2000 * (1 + noise / 2) * hindered.at(2).wall);
        expect(alone < 1.05, "slow cores that hinder take part", alone);
        const double first = Simulation(4, noise, 2).run(hindered, 1) / hindered.at(2).wall;
        expect(first < 1.3, "the first step is not the fast cores'", first);
        Simulation fast(4, noise, 2);
        fast.run(helped, 400);
        const double all = fast.run(helped, 2000) / (2000 * (1 + noise / 2) * helped.at(4).wall);
        expect(all < 1.05, "slow cores that help take no part", all);
    }
}

}  // namespace

int main() {
    quiet_steps_keep_all_threads();
    busy_steps_cost_little_more_than_one_thread();
    sleep_alone_is_no_reason();
    trials_of_long_steps_are_short();
    steps_of_other_sizes_do_not_confuse();
    slow_cores_take_part_where_they_help();
    return n_failed == 0 ? 0 : 1;
}
