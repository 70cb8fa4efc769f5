// SPDX-License-Identifier: MIT
// Primitives over 128-bit registers, shared by the sets of aarch64.
#pragma once

#include <arm_neon.h>

#include <bit>
#include <cstddef>

#include "kernels/linear/generic.h"

namespace edgellm {
namespace {

// Dots start at the bits of 1.5 * 2^23. With a dot below 2^22 added these are the bits of 1.5 * 2^23 + dot,
// and a subtraction makes the dot a float, exactly. Conversions take Arm's cores two to four times as long.
constexpr int32_t kDotOrigin = 0x4b400000;
constexpr float kDotOriginValue = 0x1.8p23f;

struct NeonRegisters {
    using Bytes = uint8x16_t;
    using Ints = int32x4_t;
    using Floats = float32x4_t;
    using Terms = DotTerms;
    static constexpr int kParts = 4;
    static constexpr bool kSignedDots = true, kWideDots = true;
    static constexpr int centre(int, int offset) { return exact_centre(offset); }

    static uint8x8_t load4(const uint8_t* p) {
        uint32_t v;
        std::memcpy(&v, p, 4);
        return vcreate_u8(v);
    }
    static uint16x4_t load_words(const uint8_t* p) {
        uint64_t v;
        std::memcpy(&v, p, 8);
        return vcreate_u16(v);
    }
    static uint32x4_t widen4(const uint8_t* p) { return vmovl_u16(vget_low_u16(vmovl_u8(load4(p)))); }
    static Ints widen4_signed(const uint8_t* p) {
        return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load4(p)))));
    }

    static Floats load_floats(const float* p) { return vld1q_f32(p); }
    static void store_floats(float* p, Floats a) { vst1q_f32(p, a); }
    static Floats load_halves(const uint8_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(load_words(p))); }
    static Floats load_bfloats(const uint8_t* p) {
        return vreinterpretq_f32_u32(vshll_n_u16(load_words(p), 16));
    }
    static Floats load_u8(const uint8_t* p) { return vcvtq_f32_u32(widen4(p)); }
    static Floats load_i8(const uint8_t* p) { return vcvtq_f32_s32(widen4_signed(p)); }
    // E4M3 is binary16 with one bit less of exponent.
    static Floats load_e4m3(const uint8_t* p) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vshl_n_u16(vget_low_u16(vmovl_u8(load4(p))), 7)));
    }
    // 2^(e - 128), subnormal ones as zero where the processor counts them so.
    static Floats load_exponents(const uint8_t* p) {
        return vmulq_n_f32(vreinterpretq_f32_u32(vshlq_n_u32(widen4(p), 23)), 0.5f);
    }
    static Floats broadcast(float a) { return vdupq_n_f32(a); }
    static Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
    static Floats sub(Floats a, Floats b) { return vsubq_f32(a, b); }
    static Floats negate(Floats a) { return vnegq_f32(a); }
    static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
    static Floats to_floats(Ints a) { return vcvtq_f32_s32(a); }

    static Bytes load(const uint8_t* p) { return vld1q_u8(p); }
    static void store(uint8_t* p, Bytes a) { vst1q_u8(p, a); }
    static Bytes low_nibbles(Bytes a) { return vandq_u8(a, vdupq_n_u8(15)); }
    static Bytes high_nibbles(Bytes a) { return vshrq_n_u8(a, 4); }
    static Bytes flip_sign(Bytes a) { return veorq_u8(a, vdupq_n_u8(0x80)); }
    // a << shift & mask; a negative shift goes right.
    EDGELLM_INLINE static Bytes take_bits(Bytes a, int shift, int mask) {
        const Bytes moved = shift >= 0 ? a << shift : a >> -shift;
        return vandq_u8(moved, vdupq_n_u8(static_cast<uint8_t>(mask)));
    }
    // a | (b << shift & mask).
    EDGELLM_INLINE static Bytes or_bits(Bytes a, Bytes b, int shift, int mask) {
        return vorrq_u8(a, take_bits(b, shift, mask));
    }
    template <class F, int offset>
    EDGELLM_INLINE static Bytes lookup(Bytes a) {
        alignas(16) static constexpr auto kTable = level_table<F, offset>();
        return vqtbl1q_u8(vld1q_u8(kTable.data()), a);
    }
    // Signed bytes of rows as words, each twice.
    static Bytes double_words(const uint8_t* p) {
        const int16x4_t w = vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load4(p))));
        return vreinterpretq_u8_s16(vcombine_s16(vzip1_s16(w, w), vzip2_s16(w, w)));
    }
    static Ints zero() { return vdupq_n_s32(0); }

    static float largest(const float* x) {
        // Magnitudes compare as integers as they do as floats, NaN above infinity.
        uint32x4_t m = vdupq_n_u32(0);
        EDGELLM_UNROLL
        for (int i = 0; i < 32; i += 4)
            m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
        return std::bit_cast<float>(vmaxvq_u32(m));
    }
    // 16 codes, x * inverse rounded to even. Returns their sum.
    static int round_codes(const float* x, float inverse, int8_t* q) {
        int32x4_t n[4];
        EDGELLM_UNROLL
        for (int i = 0; i < 4; ++i) n[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse));
        const int16x8_t a = vcombine_s16(vqmovn_s32(n[0]), vqmovn_s32(n[1]));
        const int16x8_t b = vcombine_s16(vqmovn_s32(n[2]), vqmovn_s32(n[3]));
        vst1q_s8(q, vcombine_s8(vqmovn_s16(a), vqmovn_s16(b)));
        return vaddvq_s16(vaddq_s16(a, b));
    }
    static CodeSums quantize_block(const float* x, float inverse, int factor, int8_t* q, DotTerms* terms) {
        const CodeSums sums{round_codes(x, inverse, q), round_codes(x + 16, inverse, q + 16)};
        terms->set(sums, factor);
        return sums;
    }
};

}  // namespace
}  // namespace edgellm
