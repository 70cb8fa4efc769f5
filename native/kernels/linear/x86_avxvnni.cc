// SPDX-License-Identifier: MIT
// AVX-VNNI: 256-bit registers, sums of byte products in 32 bits.
#include "kernels/linear/x86_ymm.h"

namespace edgellm {
namespace {

struct AvxVnni : YmmPrimitives {
    static constexpr bool kSignedDots = false, kWideDots = true;
    static constexpr int centre(int, int offset) { return exact_centre(offset); }
    using Terms = DotTerms;

    static CodeSums quantize_block(const float* x, float inverse, int factor, int8_t* q, DotTerms* terms) {
        const __m256i codes = round_codes(x, inverse);
        store(reinterpret_cast<uint8_t*>(q), codes);
        // Sums of 8 codes, with 128 added to each.
        const __m256i eights = _mm256_sad_epu8(flip_sign(codes), _mm256_setzero_si256());
        const __m256i pairs = _mm256_add_epi64(eights, _mm256_shuffle_epi32(eights, 0x4e));
        const CodeSums sums{_mm256_extract_epi32(pairs, 0) - 16 * 128,
                            _mm256_extract_epi32(pairs, 4) - 16 * 128};
        terms->set(sums, factor);
        return sums;
    }

    static Ints widen_i8(const uint8_t* p) {
        return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    }
    static Ints mul_add(Ints a, Ints b, Ints c) { return _mm256_add_epi32(_mm256_mullo_epi32(a, b), c); }

    template <int kSlots>
    EDGELLM_INLINE static void dot_bytes(Ints (&sum)[kSlots], const Bytes (&codes)[kSlots], const int8_t* x) {
        const __m256i quad = broadcast_word(x);
        EDGELLM_UNROLL
        for (int i = 0; i < kSlots; ++i) sum[i] = pin(_mm256_dpbusd_avx_epi32(sum[i], codes[i], quad));
    }
};

}  // namespace

EDGELLM_LINEAR_KERNELS(AvxVnni, WideEngine<AvxVnni, 8, TileSizes<4, 3, 2, 1>, TileSizes<6, 4, 3, 2, 1>, 1>)

}  // namespace edgellm
