// SPDX-License-Identifier: MIT
// AVX2: products of bytes are summed in 16 bits, as many as are safe, before they are widened and, in the
// same operation, multiplied by the activations' factor.
#if defined(__AVX2__)

#include "kernels/linear/select.h"
#include "kernels/linear/x86_ymm.h"

namespace edgellm {
namespace {

struct Avx2 : YmmPrimitives {
    static constexpr bool kSigned = true;

    template <int kSlots>
    EDGELLM_INLINE static void dot_words(Ints (&sum)[kSlots], const Bytes (&codes)[kSlots],
                                         const int16_t* x) {
        const __m256i pair = broadcast_word(x);
        EDGELLM_UNROLL
        for (int i = 0; i < kSlots; ++i) {
            sum[i] = pin(_mm256_add_epi32(sum[i], _mm256_madd_epi16(codes[i], pair)));
        }
    }
};

// Groups of 4 columns whose 16-bit sums of |code| <= max by |x| <= 127 cannot overflow: each adds 2 products.
constexpr int safe_groups(int max) {
    return max <= 15 ? 8 : max <= 31 ? 4 : max <= 63 ? 2 : 1;
}

struct Avx2Engine {
    using Simd = Avx2;
    using PackedTiles = TileSizes<8, 6, 4, 3, 2, 1>;
    using Tiles = TileSizes<6, 4, 3, 2, 1>;
    static constexpr size_t kPackedLimit = 16;
    static constexpr int kTilePanels = 1;

    static constexpr int code_class(int max) { return max <= 15 ? 15 : max <= 31 ? 31 : 63; }

    template <int T, class Source, class Rows>
    [[gnu::noinline]] static void tile(Source w, size_t n_blocks, Rows x, float* y) {
        for (size_t b = 0; b < n_blocks; ++b, w.next(), x.next()) {
            keep_in_memory(y);
            // More tokens than there are registers for both parts: one part after the other.
            if constexpr (T <= 6) {
                parts<T, 0, 2>(w, x, y);
            } else {
                parts<T, 0, 1>(w, x, y);
                parts<T, 1, 2>(w, x, y);
            }
        }
    }

  private:
    template <class Rows>
    EDGELLM_INLINE static __m256i activations(const Rows& x, int t, int group) {
        return Avx2::broadcast_word(x.q(t) + 4 * group);
    }

    // y of all tokens and parts [kFirst, kLast) from 32-bit dots; kFactored: times the activations' factors.
    template <int T, int kFirst, int kLast, bool kFactored, class Source, class Rows, class Dot>
    EDGELLM_INLINE static void finish(const Source& w, const Rows& x, float* y, const Dot& dot) {
        EDGELLM_UNROLL
        for (int part = kFirst; part < kLast; ++part) {
            const __m256 scale = w.scale(part);
            // Read before y is written: the compiler cannot know that they do not overlap.
            [[maybe_unused]] __m256 minimum, extra;
            if constexpr (Source::kPairs) {
                const __m256 offset = _mm256_set1_ps(-kPairOffset), low = w.pair_scale(0, part);
                minimum = _mm256_mul_ps(low, offset);
                extra = _mm256_mul_ps(_mm256_sub_ps(w.pair_scale(1, part), low), offset);
            } else if constexpr (!Source::kSignedCodes) {
                minimum = w.minimum(part);
            }
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                float* to = sums_of<Avx2, T>(y, part, t);
                __m256 v = _mm256_loadu_ps(to), factor = scale;
                if constexpr (!kFactored) factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.of(t).factor));
                if constexpr (!Source::kSignedCodes)
                    v = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.of(t).sum), v);
                if constexpr (Source::kPairs) v = _mm256_fmadd_ps(extra, _mm256_set1_ps(x.of(t).high), v);
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot(t, part)), factor, v));
            }
        }
    }

    // A block's parts [kFirst, kLast) of all tokens.
    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void parts(const Source& w, const Rows& x, float* y) {
        if constexpr (Source::kSignedCodes) {
            signed_parts<T, kFirst, kLast>(w, x, y);
        } else if constexpr (Source::kPairs) {
            pair_parts<T, kFirst, kLast>(w, x, y);
        } else {
            unsigned_parts<T, kFirst, kLast>(w, x, y);
        }
    }

    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void unsigned_parts(const Source& w, const Rows& x, float* y) {
        constexpr int kSafe = safe_groups(Source::kMax);
        const auto widen = [&x](__m256i words, int t) {
            return _mm256_madd_epi16(words, Avx2::broadcast_word(&x.of(t).integer));
        };
        alignas(32) int32_t earlier[T][16];  // what was widened before the last run of safe groups
        __m256i sum[T][2];
        EDGELLM_UNROLL
        for (int group = 0; group < 8; ++group) {
            __m256i codes[2];
            if constexpr (kFirst == 0) w.prefetch(group);
            EDGELLM_UNROLL
            for (int part = kFirst; part < kLast; ++part) codes[part] = w.codes(group, part);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                const __m256i quad = activations(x, t, group);
                __m256i product[2];
                EDGELLM_UNROLL
                for (int part = kFirst; part < kLast; ++part)
                    product[part] = _mm256_maddubs_epi16(codes[part], quad);
                EDGELLM_UNROLL
                for (int part = kFirst; part < kLast; ++part)
                    sum[t][part] = Avx2::pin(
                        group % kSafe == 0 ? product[part] : _mm256_add_epi16(sum[t][part], product[part]));
            }
            if (group % kSafe == kSafe - 1 && group < 7) {
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) {
                    EDGELLM_UNROLL
                    for (int part = kFirst; part < kLast; ++part) {
                        auto* to = reinterpret_cast<__m256i*>(earlier[t] + 8 * part);
                        __m256i wide = widen(sum[t][part], t);
                        if (group >= kSafe) wide = _mm256_add_epi32(wide, _mm256_load_si256(to));
                        _mm256_store_si256(to, wide);
                    }
                }
            }
        }
        finish<T, kFirst, kLast, true>(w, x, y, [&](int t, int part) {
            const __m256i wide = widen(sum[t][part], t);
            if constexpr (kSafe == 8) {
                return wide;
            } else {
                return _mm256_add_epi32(
                    wide, _mm256_load_si256(reinterpret_cast<const __m256i*>(earlier[t] + 8 * part)));
            }
        });
    }

    // A scale per 16 columns: its integer factor is multiplied in while widening.
    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void pair_parts(const Source& w, const Rows& x, float* y) {
        __m256i sum[T][2];
        EDGELLM_UNROLL
        for (int group = 0; group < 8; group += 2) {
            if constexpr (kFirst == 0) {
                w.prefetch(group);
                w.prefetch(group + 1);
            }
            EDGELLM_UNROLL
            for (int part = kFirst; part < kLast; ++part) {
                const __m256i first = w.codes(group, part), second = w.codes(group + 1, part);
                const __m256i factor = w.pair_words(group / 4, part);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) {
                    const __m256i product =
                        _mm256_add_epi16(_mm256_maddubs_epi16(first, activations(x, t, group)),
                                         _mm256_maddubs_epi16(second, activations(x, t, group + 1)));
                    const __m256i wide = _mm256_madd_epi16(product, factor);
                    sum[t][part] = Avx2::pin(group == 0 ? wide : _mm256_add_epi32(sum[t][part], wide));
                }
            }
        }
        finish<T, kFirst, kLast, false>(w, x, y, [&](int t, int part) { return sum[t][part]; });
    }

    // Signed codes of 8 bits: |code| times x with the code's sign; one product pair fits 16 bits.
    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void signed_parts(const Source& w, const Rows& x, float* y) {
        const __m256i ones = _mm256_set1_epi16(1);
        __m256i sum[T][2];
        EDGELLM_UNROLL
        for (int group = 0; group < 8; ++group) {
            if constexpr (kFirst == 0) w.prefetch(group);
            EDGELLM_UNROLL
            for (int part = kFirst; part < kLast; ++part) {
                const __m256i codes = w.codes(group, part), magnitude = _mm256_abs_epi8(codes);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) {
                    const __m256i quad = _mm256_sign_epi8(activations(x, t, group), codes);
                    const __m256i wide = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, quad), ones);
                    sum[t][part] = Avx2::pin(group == 0 ? wide : _mm256_add_epi32(sum[t][part], wide));
                }
            }
        }
        finish<T, kFirst, kLast, false>(w, x, y, [&](int t, int part) { return sum[t][part]; });
    }
};

}  // namespace

const LinearKernels kLinearAvx2 = make_kernels<Avx2Engine>();

}  // namespace edgellm

#endif
