// SPDX-License-Identifier: MIT
// Chooses how many threads of a pool run the next step, from the times of the steps before.
//
// Beside other busy processes a thread may be without a CPU for milliseconds, and at every barrier all others
// wait for it: several threads are then slower than one. Sleep at barriers shows that this may be so, and
// a trial of a few steps whether fewer threads are faster. From time to time a trial shows whether more are
// faster again. Trials that were for nothing make the next one of their kind later, so that all trials take
// little of the time.
#pragma once

#include <cstddef>
#include <vector>

namespace edgellm {

class ThreadChoice {
  public:
    // n_first: threads of the first steps, where the others run on slow cores; 0: all.
    explicit ThreadChoice(size_t n_threads, size_t n_first = 0);

    // Threads for the next step, which is of this size. Only steps of one size are compared.
    size_t threads(size_t size) const { return counts_[size == block_.size ? trial_ : level_]; }

    // The step's time, and how long all its threads together have slept at barriers, in seconds.
    void record(size_t size, double wall, double slept);

  private:
    struct Block {
        size_t size = 0, steps = 0;
        double wall = 0, slept = 0;
        double mean() const { return wall / static_cast<double>(steps); }
    };
    // When the next trial of more or of fewer threads may be, in seconds of steps, and how many in a row were
    // for nothing.
    struct Hold {
        double left = 0;
        int lost = 0;
    };

    bool trying() const { return trial_ != level_; }
    Hold& hold() { return trial_ > level_ ? fewer_ : more_; }
    double waiting() const;
    void decide();
    void judge();
    void end_block();

    std::vector<size_t> counts_;  // that are tried, most first
    size_t level_ = 0;            // index of the count in use
    size_t trial_ = 0;            // of the one that is tried, or the same
    Block block_;                 // of the steps since the last decision
    double reference_ = 0;        // a step's time before the trial
    size_t strangers_ = 0;        // steps of another size, one after another
    Hold fewer_, more_;
};

}  // namespace edgellm
