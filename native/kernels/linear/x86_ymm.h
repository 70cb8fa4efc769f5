// SPDX-License-Identifier: MIT
// Primitives over 256-bit registers, shared by the sets that have AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include "kernels/linear/generic.h"

namespace edgellm {
namespace {

struct YmmPrimitives {
    using Bytes = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kParts = 2;

    static Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
    static void store_floats(float* p, Floats a) { _mm256_storeu_ps(p, a); }
    static Floats load_halves(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static Floats load_bfloats(const uint8_t* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    static Floats load_u8(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats load_i8(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    // E4M3 is binary16 with one bit less of exponent.
    static Floats load_e4m3(const uint8_t* p) {
        const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        return _mm256_cvtph_ps(_mm_slli_epi16(wide, 7));
    }
    // 2^(e - 128), subnormal ones as zero.
    static Floats load_exponents(const uint8_t* p) {
        const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(e, 23)), _mm256_set1_ps(0.5f));
    }
    static Floats broadcast(float a) { return _mm256_set1_ps(a); }
    static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
    static Floats negate(Floats a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }

    static Bytes load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static void store(uint8_t* p, Bytes a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
    static Bytes low_nibbles(Bytes a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
    static Bytes high_nibbles(Bytes a) { return low_nibbles(_mm256_srli_epi16(a, 4)); }
    static Bytes flip_sign(Bytes a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
    // a << shift & mask; a negative shift goes right.
    EDGELLM_INLINE static Bytes take_bits(Bytes a, int shift, int mask) {
        const Bytes moved = shift == 0  ? a
                            : shift > 0 ? _mm256_slli_epi16(a, shift)
                                        : _mm256_srli_epi16(a, -shift);
        return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask)));
    }
    // a | (b << shift & mask).
    EDGELLM_INLINE static Bytes or_bits(Bytes a, Bytes b, int shift, int mask) {
        return _mm256_or_si256(a, take_bits(b, shift, mask));
    }
    template <class F, int offset>
    EDGELLM_INLINE static Bytes lookup(Bytes a) {
        alignas(16) static constexpr auto kTable = level_table<F, offset>();
        const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kTable.data()));
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), a);
    }
    // Signed bytes of rows as words, each twice.
    static Bytes double_words(const uint8_t* p) {
        const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        return _mm256_or_si256(_mm256_slli_epi32(wide, 16),
                               _mm256_and_si256(wide, _mm256_set1_epi32(0xffff)));
    }
    static Bytes broadcast_word(const void* p) {
        int32_t v;
        std::memcpy(&v, p, 4);
        return _mm256_set1_epi32(v);
    }
    // The compiler computes the value here. Else it moves products away from their sums, which spills.
    static Bytes pin(Bytes v) {
        __asm__ volatile("" : "+x"(v));
        return v;
    }
    static Ints zero() { return _mm256_setzero_si256(); }
    static Ints repeat(int32_t v) { return _mm256_set1_epi32(v); }
    static Ints shifted(int32_t v, int shift) {
        return _mm256_sllv_epi32(_mm256_set1_epi32(v), _mm256_set1_epi32(shift));
    }

    static float largest(const float* x) {
        // Magnitudes compare as integers as they do as floats, NaN above infinity.
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i v[4];
        EDGELLM_UNROLL
        for (int i = 0; i < 4; ++i)
            v[i] = _mm256_and_si256(load(reinterpret_cast<const uint8_t*>(x + 8 * i)), magnitude);
        const __m256i all = _mm256_max_epi32(_mm256_max_epi32(v[0], v[1]), _mm256_max_epi32(v[2], v[3]));
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
        return _mm_cvtss_f32(_mm_castsi128_ps(m));
    }
    // 32 codes, x * inverse rounded to even.
    static __m256i round_codes(const float* x, float inverse) {
        __m256i n[4];
        EDGELLM_UNROLL
        for (int i = 0; i < 4; ++i)
            n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(inverse)));
        // packs works in 128-bit halves; the permutation restores the order.
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i low = _mm256_packs_epi32(n[0], n[1]), high = _mm256_packs_epi32(n[2], n[3]);
        return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    }
};

}  // namespace
}  // namespace edgellm
