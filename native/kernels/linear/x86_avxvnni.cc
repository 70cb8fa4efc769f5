// SPDX-License-Identifier: MIT
// AVX-VNNI: 256-bit registers, sums of byte products in 32 bits.
#if defined(__AVXVNNI__)

#include "kernels/linear/select.h"
#include "kernels/linear/x86_ymm.h"

namespace edgellm {
namespace {

struct AvxVnni : YmmPrimitives {
    static constexpr bool kSigned = false;

    template <int kSlots>
    EDGELLM_INLINE static void dot_bytes(Ints (&sum)[kSlots], const Bytes (&codes)[kSlots], const int8_t* x) {
        const __m256i quad = broadcast_word(x);
        EDGELLM_UNROLL
        for (int i = 0; i < kSlots; ++i) sum[i] = pin(_mm256_dpbusd_avx_epi32(sum[i], codes[i], quad));
    }
    template <int kSlots>
    EDGELLM_INLINE static void dot_words(Ints (&sum)[kSlots], const Bytes (&codes)[kSlots],
                                         const int16_t* x) {
        const __m256i pair = broadcast_word(x);
        EDGELLM_UNROLL
        for (int i = 0; i < kSlots; ++i) sum[i] = pin(_mm256_dpwssd_avx_epi32(sum[i], codes[i], pair));
    }
};

}  // namespace

const LinearKernels kLinearAvxVnni =
    make_kernels<WideEngine<AvxVnni, 8, TileSizes<4, 3, 2, 1>, TileSizes<6, 4, 3, 2, 1>, 1>>();

}  // namespace edgellm

#endif
