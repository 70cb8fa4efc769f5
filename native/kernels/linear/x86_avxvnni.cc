// SPDX-License-Identifier: MIT
// AVX-VNNI: 256-bit registers, sums of byte products in 32 bits.
#if defined(__AVXVNNI__)

#include "kernels/linear/select.h"
#include "kernels/linear/x86_ymm.h"

namespace edgellm {
namespace {

struct AvxVnni : YmmPrimitives {
    static constexpr bool kSigned = false;
    static Ints dot_bytes(Ints sum, Bytes codes, Bytes x) { return _mm256_dpbusd_avx_epi32(sum, codes, x); }
    static Ints dot_words(Ints sum, Bytes codes, Bytes x) { return _mm256_dpwssd_avx_epi32(sum, codes, x); }
};

}  // namespace

const LinearKernels kLinearAvxVnni =
    make_kernels<WideEngine<AvxVnni, 4, TileSizes<4, 3, 2, 1>, TileSizes<6, 4, 3, 2, 1>>>();

}  // namespace edgellm

#endif
