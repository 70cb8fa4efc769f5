// SPDX-License-Identifier: MIT
#include "base/thread_choice.h"

#include <algorithm>
#include <functional>

namespace edgellm {
namespace {

// Steps that are judged together, and the time that they must take: several of the scheduler's time slices.
constexpr size_t kSteps = 4;
constexpr double kBlock = 0.030, kTrial = 0.120;
// A block's part in the time of a step that trials are compared with. The block that begins a trial is slower
// than most: alone it would make other counts look too good.
constexpr double kNewShare = 0.25;
// The part of its threads' time that a step may sleep at barriers before fewer threads are tried; and the
// part, and time, with which that is urgent.
constexpr double kWaiting = 0.10, kUrgent = 0.40, kUrgentBlock = 0.015;
// A trial ends at once when a step takes so many times as long as before, or when several do. A step of at
// least kLongStep seconds counts as several: it spans time slices enough by itself.
constexpr double kMuchSlower = 2.0, kSlower = 1.4, kMuchFaster = 0.5, kLongStep = 0.060;
// More threads must gain something.
constexpr double kGain = 0.97;
// A trial's loss of time is at most one in so many of what follows; after several lost trials far less.
constexpr double kLossShare = 30;
constexpr int kMostDoublings = 6;
constexpr double kMostHoldMore = 3, kMostHoldFewer = 10, kLeastHold = 0.2;
// So many steps of another size in a row: those are the ones to judge from now on.
constexpr size_t kStrangers = 8;

}  // namespace

ThreadChoice::ThreadChoice(size_t n_threads, size_t n_first) {
    for (size_t n : {n_threads, n_threads - 1}) {
        if (n > 0) counts_.push_back(n);
    }
    for (size_t n = n_threads / 2; n > 0; n /= 2) {
        if (n < counts_.back()) counts_.push_back(n);
    }
    if (n_first == 0 || n_first >= n_threads) return;
    auto first = std::ranges::lower_bound(counts_, n_first, std::greater<>{});
    if (*first != n_first) first = counts_.insert(first, n_first);
    level_ = trial_ = static_cast<size_t>(first - counts_.begin());
}

double ThreadChoice::waiting() const {
    return block_.slept / (block_.wall * static_cast<double>(counts_[trial_]));
}

void ThreadChoice::record(size_t size, double wall, double slept) {
    if (counts_.size() == 1) return;
    fewer_.left -= wall;
    more_.left -= wall;
    if (size != block_.size) {
        if (block_.size != 0 && ++strangers_ < kStrangers) return;
        trial_ = level_;
        block_ = {size};
        reference_ = 0;
    }
    strangers_ = 0;
    ++block_.steps;
    block_.wall += wall;
    block_.slept += slept;
    if (trying()) {
        judge();
    } else {
        const bool full = block_.steps >= kSteps && block_.wall >= kBlock;
        const bool urgent = block_.wall >= kUrgentBlock && waiting() > kUrgent;
        if (full || (urgent && fewer_.left <= 0)) {
            decide();
            end_block();
        }
    }
}

// After a block without a trial: begins one if there is reason.
void ThreadChoice::decide() {
    reference_ = reference_ == 0 ? block_.mean() : reference_ + kNewShare * (block_.mean() - reference_);
    const double slept = waiting();
    if (slept > kWaiting && fewer_.left <= 0 && level_ + 1 < counts_.size()) {
        // As many as have been at work at a time.
        const double at_work = static_cast<double>(counts_[level_]) * (1 - slept);
        trial_ = level_ + 1;
        while (trial_ + 1 < counts_.size() && static_cast<double>(counts_[trial_]) > at_work + 0.5) ++trial_;
    } else if (level_ > 0 && more_.left <= 0) {
        trial_ = level_ - 1;
    }
}

void ThreadChoice::judge() {
    const double mean = block_.mean();
    const bool full = block_.steps >= kSteps && block_.wall >= kTrial;
    const bool fewer = trial_ > level_;
    const bool several = block_.steps > 1 || block_.wall >= kLongStep;
    const bool slower = mean > (several ? kSlower : kMuchSlower) * reference_;
    const bool faster = several && mean < kMuchFaster * reference_;
    if (!slower && !faster && !full) return;
    if (!slower && mean < (fewer ? 1.0 : kGain) * reference_) {
        // The way back is tried when it has paid to come here, even if it costs two steps of before.
        more_.left =
            fewer ? std::clamp(2 * kLossShare * (reference_ - mean), kLeastHold, kMostHoldMore) : kLeastHold;
        fewer_.left = fewer ? 0 : kLeastHold;
        hold().lost = 0;
        level_ = trial_;
        reference_ = mean;
    } else {
        Hold& held = hold();
        const double loss = std::max(block_.wall - static_cast<double>(block_.steps) * reference_, 0.0);
        const double share = kLossShare * loss;
        const double most = fewer ? std::max(2 * share, kMostHoldFewer) : std::max(share, kMostHoldMore);
        const auto times = static_cast<double>(1 << std::min(held.lost, kMostDoublings));
        held.left = std::clamp(share * times, kLeastHold, most);
        ++held.lost;
        trial_ = level_;
    }
    end_block();
}

void ThreadChoice::end_block() {
    block_ = {block_.size};
}

}  // namespace edgellm
