// SPDX-License-Identifier: MIT
// Four float lanes with NEON, as vec_portable.h has them and with the same results, and what the compiler
// does not find by itself.
#pragma once

#include "base/portable_vec.h"

namespace edgellm {
namespace {

struct Vec : PortableVec {
    // Copies of bytes may go by way of other registers, half by half.
    EDGELLM_INLINE static F32 load(const float* p) { return (F32)vld1q_f32(p); }
    EDGELLM_INLINE static void store(float* p, F32 v) { vst1q_f32(p, (float32x4_t)v); }

    // a * b[lane] + c, rounded once.
    template <int lane>
    EDGELLM_INLINE static F32 fma_lane(F32 a, F32 b, F32 c) {
        // In place, and here: the compiler would else copy sums.
        __asm__ volatile("fmla %0.4s, %1.4s, %2.s[%c3]" : "+w"(c) : "w"(a), "w"(b), "i"(lane));
        return c;
    }

    // Lane i of row j becomes lane j of row i.
    EDGELLM_INLINE static void transpose(F32 (&rows)[4]) {
        const auto a = (float32x4_t)rows[0], b = (float32x4_t)rows[1];
        const auto c = (float32x4_t)rows[2], d = (float32x4_t)rows[3];
        const auto ab_even = (float64x2_t)vtrn1q_f32(a, b), ab_odd = (float64x2_t)vtrn2q_f32(a, b);
        const auto cd_even = (float64x2_t)vtrn1q_f32(c, d), cd_odd = (float64x2_t)vtrn2q_f32(c, d);
        rows[0] = (F32)vtrn1q_f64(ab_even, cd_even);
        rows[1] = (F32)vtrn1q_f64(ab_odd, cd_odd);
        rows[2] = (F32)vtrn2q_f64(ab_even, cd_even);
        rows[3] = (F32)vtrn2q_f64(ab_odd, cd_odd);
    }
};
static_assert(SimdVocabulary<Vec>);

}  // namespace
}  // namespace edgellm
