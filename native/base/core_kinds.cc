// SPDX-License-Identifier: MIT
#include "base/core_kinds.h"

#include <algorithm>
#include <utility>

namespace edgellm {
namespace {

// The same share as in edgellm/device/cores.py, which counts the threads.
constexpr float kFastShare = 0.7f;
constexpr float kAlike = 0.9f;

bool slower(const CpuSpeed& a, const CpuSpeed& b) {
    return a.speed < b.speed;
}

}  // namespace

CoreKinds::CoreKinds(std::vector<CpuSpeed> cpus) : cpus_(std::move(cpus)) {
    if (cpus_.empty()) return;
    const auto [least, most] = std::minmax_element(cpus_.begin(), cpus_.end(), slower);
    const float top = most->speed;
    if (!(least->speed > 0)) {
        cpus_.clear();
        return;
    }
    uneven_ = least->speed < kAlike * top;
    for (CpuSpeed& c : cpus_) c.speed /= top;
    if (uneven_)
        n_fast_ = cpus_.size() - static_cast<size_t>(std::ranges::count_if(
                                     cpus_, [](const CpuSpeed& c) { return c.speed < kFastShare; }));
}

float CoreKinds::speed(int cpu) const {
    const auto it = std::ranges::find(cpus_, cpu, &CpuSpeed::cpu);
    return it == cpus_.end() ? 1.0f : it->speed;
}

bool CoreKinds::is_slow(int cpu) const {
    return uneven_ && speed(cpu) < kFastShare;
}

void CoreKinds::append_slower(int cpu, bool as_slow, std::vector<int>* cpus) const {
    const float own = speed(cpu);
    for (const CpuSpeed& c : cpus_) {
        if (c.speed < kAlike * own || (as_slow && c.speed * kAlike < own)) cpus->push_back(c.cpu);
    }
}

}  // namespace edgellm
