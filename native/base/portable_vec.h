// SPDX-License-Identifier: MIT
// Four float lanes in the compiler's own vectors: SSE2 or NEON where the target always has them, plain code
// elsewhere.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstddef>
#include <cstdint>

#include "base/vec.h"

namespace edgellm {
namespace {

struct PortableVec {
    static constexpr size_t kLanes = 4;
    static constexpr bool kMultipliesPairs = false;
#if defined(__aarch64__)
    static constexpr size_t kRegisters = 32;
#else
    static constexpr size_t kRegisters = 16;
#endif
    typedef float F32 __attribute__((vector_size(16)));
    typedef int32_t I32 __attribute__((vector_size(16)));
    typedef uint32_t U32 __attribute__((vector_size(16)));

    EDGELLM_INLINE static F32 splat(float x) { return F32{x, x, x, x}; }
    EDGELLM_INLINE static I32 splat_int(int32_t x) { return I32{x, x, x, x}; }

    EDGELLM_INLINE static F32 load(const float* p) {
        F32 v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    }
    EDGELLM_INLINE static void store(float* p, F32 v) { __builtin_memcpy(p, &v, sizeof v); }

    EDGELLM_INLINE static F32 fma(F32 a, F32 b, F32 c) {
#if defined(__aarch64__)
        for (size_t i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
        return c;
#else
        return a * b + c;
#endif
    }
    EDGELLM_INLINE static F32 max(F32 a, F32 b) { return a > b ? a : b; }
    EDGELLM_INLINE static F32 min(F32 a, F32 b) { return a < b ? a : b; }
    template <class V>
    EDGELLM_INLINE static V select(I32 mask, V a, V b) {
        return mask ? a : b;
    }

#if defined(__aarch64__)
    EDGELLM_INLINE static F32 load_half(const uint16_t* p) {
        return (F32)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
    }
    EDGELLM_INLINE static void store_half(uint16_t* p, F32 v) {
        vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v)));
    }
#else
    // IEEE binary16, four values. The exponent's bias is repaired by a multiplication, exact for subnormals
    // too.
    EDGELLM_INLINE static F32 load_half(const uint16_t* p) {
        typedef uint16_t U16 __attribute__((vector_size(8)));
        U16 raw;
        __builtin_memcpy(&raw, p, sizeof raw);
        const I32 h = __builtin_convertvector(raw, I32);
        const I32 magnitude = h & 0x7fff;
        const I32 infinite = magnitude >= 0x7c00;
        const F32 scaled = (F32)(magnitude << 13) * 0x1p112f;
        return (F32)((I32)scaled | (infinite & 0x7f800000) | ((h & 0x8000) << 16));
    }
    EDGELLM_INLINE static void store_half(uint16_t* p, F32 v) {
        const I32 bits = (I32)v;
        const I32 x = bits & 0x7fffffff;
        const I32 subnormal = (I32)((F32)x + splat(0.5f)) - 0x3f000000;
        const I32 normal = (x - 0x37fff001 + ((x >> 13) & 1)) >> 13;
        const I32 finite = x < 0x38800000 ? subnormal : normal;
        const I32 large = x > 0x7f800000 ? splat_int(0x7e00) : splat_int(0x7c00);
        const I32 half = (x >= 0x47800000 ? large : finite) | ((bits >> 16) & 0x8000);
        for (size_t i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(half[i]);
    }
#endif
    EDGELLM_INLINE static F32 load_int8(const int8_t* p) {
        typedef int8_t I8 __attribute__((vector_size(4)));
        I8 raw;
        __builtin_memcpy(&raw, p, sizeof raw);
        return __builtin_convertvector(raw, F32);
    }

    EDGELLM_INLINE static void store_int16(int16_t* p, I32 v) {
        typedef int16_t I16 __attribute__((vector_size(8)));
        const I32 low = v < -32768 ? splat_int(-32768) : v;
        const I16 narrow = __builtin_convertvector(low > 32767 ? splat_int(32767) : low, I16);
        __builtin_memcpy(p, &narrow, sizeof narrow);
    }
    EDGELLM_INLINE static void store_bytes(uint8_t* p, I32 v) {
        typedef uint8_t U8 __attribute__((vector_size(4)));
        const U8 narrow = __builtin_convertvector(v, U8);
        __builtin_memcpy(p, &narrow, sizeof narrow);
    }
    EDGELLM_INLINE static I32 add_pair_products(I32 sum, I32 x, I32 y) {
        const I32 low = ((I32)((U32)x << 16) >> 16) * ((I32)((U32)y << 16) >> 16);
        return (I32)((U32)sum + (U32)low + (U32)((x >> 16) * (y >> 16)));
    }

    EDGELLM_INLINE static F32 swap_pairs(F32 v) { return F32{v[1], v[0], v[3], v[2]}; }
    EDGELLM_INLINE static F32 load_twice(const float* p) { return F32{p[0], p[0], p[1], p[1]}; }

    EDGELLM_INLINE static float reduce_add(F32 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
    EDGELLM_INLINE static float reduce_max(F32 v) {
        const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
        return a > b ? a : b;
    }

    template <class T>
    EDGELLM_INLINE static void hide(T& v) {
#if defined(__x86_64__)
        __asm__ volatile("" : "+x"(v));
#elif defined(__aarch64__)
        __asm__ volatile("" : "+w"(v));
#else
        __asm__ volatile("" : "+m"(v));
#endif
    }
};
static_assert(SimdVocabulary<PortableVec>);

}  // namespace
}  // namespace edgellm
