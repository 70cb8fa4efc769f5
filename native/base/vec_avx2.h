// SPDX-License-Identifier: MIT
// Eight float lanes with FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "base/vec.h"

namespace edgellm {
namespace {

struct Vec {
    static constexpr size_t kLanes = 8;
    static constexpr bool kMultipliesPairs = true;
    static constexpr size_t kRegisters = 16;
    typedef float F32 __attribute__((vector_size(32)));
    typedef int32_t I32 __attribute__((vector_size(32)));
    typedef uint32_t U32 __attribute__((vector_size(32)));

    EDGELLM_INLINE static F32 splat(float x) { return _mm256_set1_ps(x); }
    EDGELLM_INLINE static I32 splat_int(int32_t x) { return (I32)_mm256_set1_epi32(x); }

    EDGELLM_INLINE static F32 load(const float* p) { return _mm256_loadu_ps(p); }
    EDGELLM_INLINE static void store(float* p, F32 v) { _mm256_storeu_ps(p, v); }

    EDGELLM_INLINE static F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
    EDGELLM_INLINE static F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
    EDGELLM_INLINE static F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
    template <class V>
    EDGELLM_INLINE static V select(I32 mask, V a, V b) {
        return mask ? a : b;
    }

    EDGELLM_INLINE static F32 load_half(const uint16_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    EDGELLM_INLINE static void store_half(uint16_t* p, F32 v) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    EDGELLM_INLINE static F32 load_int8(const int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }

    EDGELLM_INLINE static void store_int16(int16_t* p, I32 v) {
        const __m256i x = (__m256i)v;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
    }
    EDGELLM_INLINE static void store_bytes(uint8_t* p, I32 v) {
        typedef uint8_t U8 __attribute__((vector_size(8)));
        const U8 narrow = __builtin_convertvector(v, U8);
        __builtin_memcpy(p, &narrow, sizeof narrow);
    }
    EDGELLM_INLINE static I32 add_pair_products(I32 sum, I32 x, I32 y) {
        const __m256i products = _mm256_madd_epi16((__m256i)x, (__m256i)y);
        // In place and here: the compiler would else copy every sum and keep products of later rows, which
        // spills.
        __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
        return sum;
    }

    EDGELLM_INLINE static F32 swap_pairs(F32 v) { return _mm256_permute_ps(v, 0xb1); }
    EDGELLM_INLINE static F32 load_twice(const float* p) {
        return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)),
                                        _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    }

    EDGELLM_INLINE static float reduce_add(F32 v) {
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    EDGELLM_INLINE static float reduce_max(F32 v) {
        __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
    }

    template <class T>
    EDGELLM_INLINE static void hide(T& v) {
        __asm__ volatile("" : "+x"(v));
    }
};
static_assert(SimdVocabulary<Vec>);

}  // namespace
}  // namespace edgellm
