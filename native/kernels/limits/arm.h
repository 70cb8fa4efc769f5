// SPDX-License-Identifier: MIT
// Registers of the Arm sets whose products of codes are measured.
#pragma once

#include <arm_neon.h>

#include <cstddef>

#include "base/vec_portable.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct NeonProducts {
    using Codes = int8x16_t;
    using Sums = int32x4_t;
    static constexpr int kSums = 12;

    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+w"(v));
    }
};

}  // namespace
}  // namespace edgellm
