// SPDX-License-Identifier: MIT
// AVX-512 with VNNI: a 512-bit register is 16 rows.
#include <immintrin.h>

#include <bit>

#include "kernels/linear/generic.h"

namespace edgellm {
namespace {

struct Avx512Vnni {
    using Bytes = __m512i;
    using Ints = __m512i;
    using Floats = __m512;
    struct [[gnu::may_alias]] Quad {
        int8_t v[4];
    };
    static constexpr int kParts = 1;
    static constexpr bool kSignedDots = false, kWideDots = true;
    static constexpr int centre(int, int offset) { return exact_centre(offset); }
    using Terms = DotTerms;
    static bool tables_scales() { return cpu_tuning().tables_scales; }

    static __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
    static __m256i load32(const uint8_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }

    static Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
    static void store_floats(float* p, Floats a) { _mm512_storeu_ps(p, a); }
    static Floats load_halves(const uint8_t* p) { return _mm512_cvtph_ps(load32(p)); }
    static Floats load_bfloats(const uint8_t* p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load32(p)), 16));
    }
    static Floats load_u8(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load16(p))); }
    static Floats load_i8(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(p))); }
    // E4M3 is binary16 with one bit less of exponent.
    static Floats load_e4m3(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(load16(p)), 7));
    }
    // 2^(e - 128), subnormal ones as zero.
    static Floats load_exponents(const uint8_t* p) {
        const __m512i e = _mm512_slli_epi32(_mm512_cvtepu8_epi32(load16(p)), 23);
        return _mm512_mul_ps(_mm512_castsi512_ps(e), _mm512_set1_ps(0.5f));
    }
    static Floats broadcast(float a) { return _mm512_set1_ps(a); }
    static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    static Floats negate(Floats a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }

    static Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static void store(uint8_t* p, Bytes a) { _mm512_storeu_si512(p, a); }
    static Bytes low_nibbles(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
    static Bytes high_nibbles(Bytes a) { return low_nibbles(_mm512_srli_epi16(a, 4)); }
    static Bytes flip_sign(Bytes a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
    // a << shift & mask; a negative shift goes right.
    EDGELLM_INLINE static Bytes take_bits(Bytes a, int shift, int mask) {
        return _mm512_and_si512(moved(a, shift), _mm512_set1_epi8(static_cast<char>(mask)));
    }
    // a | (b << shift & mask).
    EDGELLM_INLINE static Bytes or_bits(Bytes a, Bytes b, int shift, int mask) {
        const Bytes bits = _mm512_set1_epi8(static_cast<char>(mask));
        return _mm512_ternarylogic_epi32(a, moved(b, shift), bits, 0xf8);
    }
    EDGELLM_INLINE static Bytes moved(Bytes a, int shift) {
        return shift == 0  ? a
               : shift > 0 ? _mm512_slli_epi16(a, static_cast<unsigned>(shift))
                           : _mm512_srli_epi16(a, static_cast<unsigned>(-shift));
    }
    template <class F, int offset>
    EDGELLM_INLINE static Bytes lookup(Bytes a) {
        alignas(16) static constexpr auto kTable = level_table<F, offset>();
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load16(kTable.data())), a);
    }
    // Signed bytes of rows as words, each twice.
    static Bytes double_words(const uint8_t* p) {
        const __m512i wide = _mm512_cvtepi8_epi32(load16(p));
        return _mm512_or_si512(_mm512_slli_epi32(wide, 16),
                               _mm512_and_si512(wide, _mm512_set1_epi32(0xffff)));
    }
    static Bytes broadcast_word(const void* p) {
        int32_t v;
        std::memcpy(&v, p, 4);
        return _mm512_set1_epi32(v);
    }
    // The compiler computes the value here. Else it moves products away from their sums, which spills.
    static Bytes pin(Bytes v) {
        __asm__ volatile("" : "+v"(v));
        return v;
    }
    static Ints zero() { return _mm512_setzero_si512(); }
    static Ints repeat(int32_t v) { return _mm512_set1_epi32(v); }
    static Ints shifted(int32_t v, int shift) {
        return _mm512_sllv_epi32(_mm512_set1_epi32(v), _mm512_set1_epi32(shift));
    }
    static Ints shifted(Ints a, int32_t shift) { return _mm512_sllv_epi32(a, _mm512_set1_epi32(shift)); }
    static Ints widen_i8(const uint8_t* p) { return _mm512_cvtepi8_epi32(load16(p)); }
    static Ints mul_add(Ints a, Ints b, Ints c) { return _mm512_add_epi32(_mm512_mullo_epi32(a, b), c); }

    // One register of codes takes its activations from memory, several share a register.
    template <int kSlots>
    EDGELLM_INLINE static void dot_bytes(Ints (&sum)[kSlots], const Bytes (&codes)[kSlots], const int8_t* x) {
        if constexpr (kSlots == 1) {
            __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0"
                             : "+v"(sum[0])
                             : "v"(codes[0]), "m"(*reinterpret_cast<const Quad*>(x)));
        } else {
            const __m512i quad = broadcast_word(x);
            EDGELLM_UNROLL
            for (int i = 0; i < kSlots; ++i) sum[i] = pin(_mm512_dpbusd_epi32(sum[i], codes[i], quad));
        }
    }

    static float largest(const float* x) {
        // Magnitudes compare as integers as they do as floats, NaN above infinity.
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        const __m512i low = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
        const __m512i high = _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude);
        return std::bit_cast<float>(_mm512_reduce_max_epi32(_mm512_max_epi32(low, high)));
    }
    static CodeSums quantize_block(const float* x, float inverse, int factor, int8_t* q, DotTerms* terms) {
        const __m512 scale = _mm512_set1_ps(inverse);
        const __m128i low =
            _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), scale)));
        const __m128i high =
            _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), scale)));
        const __m256i codes = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), codes);
        // Sums of 8 codes, with 128 added to each.
        const __m256i eights =
            _mm256_sad_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
        const __m256i pairs = _mm256_add_epi64(eights, _mm256_shuffle_epi32(eights, 0x4e));
        const CodeSums sums{_mm256_extract_epi32(pairs, 0) - 16 * 128,
                            _mm256_extract_epi32(pairs, 4) - 16 * 128};
        terms->set(sums, factor);
        return sums;
    }
};

}  // namespace

EDGELLM_LINEAR_KERNELS(
    Avx512Vnni,
    WideEngine<Avx512Vnni, 32, TileSizes<16, 12, 8, 6, 4, 3, 2, 1>, TileSizes<12, 8, 6, 4, 3, 2, 1>, 2>)

}  // namespace edgellm
