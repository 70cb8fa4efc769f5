// SPDX-License-Identifier: MIT
// Sixteen float lanes.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header passes an undefined vector on purpose and warns of it wherever it is inlined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "base/vec.h"

namespace edgellm {
namespace {

struct Vec {
    static constexpr size_t kLanes = 16;
    static constexpr bool kMultipliesPairs = true;
    static constexpr size_t kRegisters = 32;
    typedef float F32 __attribute__((vector_size(64)));
    typedef int32_t I32 __attribute__((vector_size(64)));
    typedef uint32_t U32 __attribute__((vector_size(64)));

    EDGELLM_INLINE static F32 splat(float x) { return _mm512_set1_ps(x); }
    EDGELLM_INLINE static I32 splat_int(int32_t x) { return (I32)_mm512_set1_epi32(x); }

    EDGELLM_INLINE static F32 load(const float* p) { return _mm512_loadu_ps(p); }
    EDGELLM_INLINE static void store(float* p, F32 v) { _mm512_storeu_ps(p, v); }

    EDGELLM_INLINE static F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
    EDGELLM_INLINE static F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
    EDGELLM_INLINE static F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
    template <class V>
    EDGELLM_INLINE static V select(I32 mask, V a, V b) {
        return mask ? a : b;
    }

    EDGELLM_INLINE static F32 load_half(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    EDGELLM_INLINE static void store_half(uint16_t* p, F32 v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    EDGELLM_INLINE static F32 load_int8(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }

    EDGELLM_INLINE static void store_int16(int16_t* p, I32 v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16((__m512i)v));
    }
    EDGELLM_INLINE static void store_bytes(uint8_t* p, I32 v) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
    }
    EDGELLM_INLINE static I32 add_pair_products(I32 sum, I32 x, I32 y) {
        // In place and here: the compiler would else copy every sum, which spills.
        __asm__ volatile("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
        return sum;
    }

    EDGELLM_INLINE static F32 swap_pairs(F32 v) { return _mm512_permute_ps(v, 0xb1); }
    EDGELLM_INLINE static F32 load_twice(const float* p) {
        return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                     _mm512_castps256_ps512(_mm256_loadu_ps(p)));
    }

    EDGELLM_INLINE static float reduce_add(F32 v) {
        const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
    }
    EDGELLM_INLINE static float reduce_max(F32 v) { return _mm512_reduce_max_ps(v); }

    template <class T>
    EDGELLM_INLINE static void hide(T& v) {
        __asm__ volatile("" : "+v"(v));
    }
};
static_assert(SimdVocabulary<Vec>);

}  // namespace
}  // namespace edgellm
