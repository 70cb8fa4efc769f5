// SPDX-License-Identifier: MIT
// Cores of several kinds in one processor: big.LITTLE, DynamIQ, hybrid laptops.
//
// Equal parts of the work end apart on CPUs that differ, and all threads wait for the slowest. So threads
// take parts as they come free. Steps of few rows begin on the fast CPUs alone.
#pragma once

#include <cstddef>
#include <vector>

namespace edgellm {

// speed: in any unit, the same for all CPUs.
struct CpuSpeed {
    int cpu;
    float speed;
};

class CoreKinds {
  public:
    // One kind: nothing is known.
    CoreKinds() = default;
    // The CPUs that the process may use.
    explicit CoreKinds(std::vector<CpuSpeed> cpus);

    // True if CPUs differ by more than a tenth.
    bool uneven() const { return uneven_; }
    // CPUs with nearly the speed of the fastest; 0 if there is one kind.
    size_t n_fast() const { return n_fast_; }
    size_t n_cpus() const { return cpus_.size(); }
    bool is_slow(int cpu) const;
    // Appends the CPUs that are slower than `cpu`, and with `as_slow` also those that are as slow.
    void append_slower(int cpu, bool as_slow, std::vector<int>* cpus) const;

  private:
    float speed(int cpu) const;  // relative to the fastest

    std::vector<CpuSpeed> cpus_;
    bool uneven_ = false;
    size_t n_fast_ = 0;
};

}  // namespace edgellm
