// SPDX-License-Identifier: MIT
// A table of kernels for each instruction set, filled from the files that a kernel folder has.
//
// A folder's select.cc, here of attention, whose files define kAttentionScalar, kAttentionAvx2, ...:
//
//   EDGELLM_ATTENTION_SETS(EDGELLM_DECLARE, AttentionKernels, kAttention)
//   constexpr ByIsa<AttentionKernels> kTable = {EDGELLM_ATTENTION_SETS(EDGELLM_ENTRY, kAttention)};
//
// CMakeLists.txt writes EDGELLM_ATTENTION_SETS: a new file of an instruction set enters the table by its
// name.
#pragma once

#include <kernel_sets.h>

#include <array>
#include <initializer_list>

#include "base/arch.h"

#define EDGELLM_DECLARE(set, Kernels, prefix) extern const Kernels prefix##set;
#define EDGELLM_ENTRY(set, prefix) {Isa::k##set, &prefix##set},

namespace edgellm {

template <class Kernels>
class ByIsa {
  public:
    struct Entry {
        Isa isa;
        const Kernels* kernels;
    };
    constexpr ByIsa(std::initializer_list<Entry> entries) {
        for (const Entry& e : entries) kernels_[static_cast<size_t>(e.isa)] = e.kernels;
    }

    // The set's own kernels, or those of its nearest fallback that has some. The scalar set always has.
    constexpr const Kernels& operator[](Isa isa) const {
        while (kernels_[static_cast<size_t>(isa)] == nullptr) isa = fallback_isa(isa);
        return *kernels_[static_cast<size_t>(isa)];
    }

  private:
    std::array<const Kernels*, kIsaCount> kernels_{};
};

}  // namespace edgellm
