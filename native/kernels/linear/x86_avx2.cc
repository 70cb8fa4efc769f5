// SPDX-License-Identifier: MIT
// AVX2: products of bytes are summed in 16 bits. Once a block the sums are widened, by a multiplication with
// the activations' factor. A lane sums 16 products of a block. With codes up to 15 it stays within 16 bits:
// 16 * 15 * 127. Codes up to 31 may leave them on the way and wrap around: the accumulator starts at the zero
// point 16, so the sum ends within 16 * 16 * 127. The same holds for half a block of codes up to 63 with the
// zero point 32.
#include "kernels/linear/x86_ymm.h"

namespace edgellm {
namespace {

struct Avx2 : YmmPrimitives {
    static constexpr bool kSignedDots = true, kWideDots = false;
    static constexpr int centre(int max, int) { return max <= 15 ? 0 : max <= 31 ? 16 : 32; }

    // Accumulator's starts as two words, for columns 0 and 1 and for columns 2 and 3 of every four: -16 times
    // their sum over all columns, and -32 times their sums over the first and last 16.
    struct Terms {
        int32_t start, low_start, high_start;
        int32_t multiplier;  // the factor as two words
    };
    static CodeSums quantize_block(const float* x, float inverse, int factor, int8_t* q, Terms* terms) {
        const __m256i codes = round_codes(x, inverse);
        store(reinterpret_cast<uint8_t*>(q), codes);
        // Words: sums of columns 0 and 1, and of 2 and 3, of every four; then of all that are in a half.
        __m256i sums = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
        sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32(sums, 0x4e));
        sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32(sums, 0xb1));
        const __m256i halves = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
        const __m256i starts = _mm256_mullo_epi16(sums, _mm256_set1_epi16(-32));
        const __m128i all = _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        terms->start = _mm_cvtsi128_si32(_mm_mullo_epi16(all, _mm_set1_epi16(-16)));
        terms->low_start = _mm256_extract_epi32(starts, 0);
        terms->high_start = _mm256_extract_epi32(starts, 4);
        terms->multiplier = factor * 0x10001;
        return {_mm256_extract_epi32(halves, 0), _mm256_extract_epi32(halves, 4)};
    }

    // Signed bytes 0 and 2 (1 and 3) of each lane as words.
    static Bytes even_words(Bytes a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
    static Bytes odd_words(Bytes a) { return _mm256_srai_epi16(a, 8); }
    static Bytes mul_words(Bytes a, Bytes b) { return _mm256_mullo_epi16(a, b); }
    // 32 activations as words in the order of even_words and odd_words.
    static void widen(const int8_t* q, int16_t* even, int16_t* odd) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(even), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(odd), _mm256_srai_epi16(v, 8));
    }
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

struct Avx2Engine {
    using Simd = Avx2;
    using PackedTiles = TileSizes<8, 6, 4, 3, 2, 1>;
    using Tiles = TileSizes<6, 4, 3, 2, 1>;
    static size_t packed_limit() { return 16; }
    static constexpr int kTilePanels = 1;
    // 8 products with activations in a sum of 16 bits.
    static constexpr int kLargestLevel = 32;

    static constexpr int code_class(int max) { return max <= 15 ? 15 : max <= 31 ? 31 : 63; }

    template <int T, class Source, class Rows>
    [[gnu::noinline]] static void tile(const Source& source, size_t n_blocks, const Rows& rows, float* y) {
        Source w = source;
        Rows x = rows;
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
    template <int T, int kFirst, int kLast, bool kFactored, class Source, class Rows, class Dot, class Scale>
    EDGELLM_INLINE static void finish(const Source& w, const Rows& x, float* y, const Dot& dot,
                                      const Scale& scale_of) {
        EDGELLM_UNROLL
        for (int part = kFirst; part < kLast; ++part) {
            const __m256 scale = scale_of(part);
            // Read before y is written: the compiler cannot know that they do not overlap.
            __m256 minimum;
            if constexpr (Source::kHasMinimum) minimum = w.minimum(part);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                float* to = sums_of<Avx2, T>(y, part, t);
                __m256 v = _mm256_loadu_ps(to), factor = scale;
                if constexpr (!kFactored) factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.of(t).factor));
                if constexpr (Source::kHasMinimum)
                    v = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.of(t).sum), v);
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot(t, part)), factor, v));
            }
        }
    }

    // A block's parts [kFirst, kLast) of all tokens.
    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void parts(const Source& w, const Rows& x, float* y) {
        if constexpr (Source::kSignedCodes) {
            signed_parts<T, kFirst, kLast>(w, x, y);
        } else if constexpr (Source::kPairs || Source::kIntegers) {
            pair_parts<T, kFirst, kLast>(w, x, y);
        } else {
            unsigned_parts<T, kFirst, kLast>(w, x, y);
        }
    }

    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void unsigned_parts(const Source& w, const Rows& x, float* y) {
        static_assert(Source::kMax < (Source::kCentred ? 32 : 16));
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
                for (int part = kFirst; part < kLast; ++part) {
                    __m256i v = product[part];
                    if (group > 0) {
                        v = _mm256_add_epi16(sum[t][part], v);
                    } else if constexpr (Source::kCentred) {
                        v = _mm256_add_epi16(Avx2::broadcast_word(&terms_of<Avx2>(x.of(t)).start), v);
                    }
                    sum[t][part] = Avx2::pin(v);
                }
            }
        }
        finish<T, kFirst, kLast, true>(
            w, x, y,
            [&](int t, int part) {
                return _mm256_madd_epi16(sum[t][part],
                                         Avx2::broadcast_word(&terms_of<Avx2>(x.of(t)).multiplier));
            },
            [&w](int part) { return w.scale(part); });
    }

    // A scale per 16 columns. Its integer factor is multiplied in while widening; without one, each half of
    // the block is finished by itself.
    template <int T, int kFirst, int kLast, class Source, class Rows>
    EDGELLM_INLINE static void pair_parts(const Source& w, const Rows& x, float* y) {
        one_pair_part<T, kFirst>(w, x, y);
        if constexpr (kLast > kFirst + 1) one_pair_part<T, kFirst + 1>(w, x, y);
    }

    template <int T, int kPart, class Source, class Rows>
    EDGELLM_INLINE static void one_pair_part(const Source& w, const Rows& x, float* y) {
        __m256i wide[T];
        EDGELLM_UNROLL
        for (int half = 0; half < 2; ++half) {
            __m256i sum[T];
            EDGELLM_UNROLL
            for (int group = 4 * half; group < 4 * half + 4; ++group) {
                if constexpr (kPart == 0) w.prefetch(group);
                const __m256i codes = w.codes(group, kPart);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) {
                    const __m256i before =
                        group % 4 > 0 ? sum[t] : half_start<Source>(terms_of<Avx2>(x.of(t)), half);
                    sum[t] = Avx2::pin(
                        _mm256_add_epi16(before, _mm256_maddubs_epi16(codes, activations(x, t, group))));
                }
            }
            if constexpr (Source::kIntegerPairs) {
                const __m256i factor = w.pair_words(half, kPart);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) {
                    const __m256i product = _mm256_madd_epi16(sum[t], factor);
                    wide[t] = Avx2::pin(half == 0 ? product : _mm256_add_epi32(wide[t], product));
                }
            } else {
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t)
                    wide[t] = Avx2::pin(_mm256_madd_epi16(sum[t], _mm256_set1_epi16(1)));
                finish<T, kPart, kPart + 1, false>(
                    w, x, y, [&](int t, int) { return wide[t]; },
                    [&w, half](int part) { return w.pair_scale(half, part); });
            }
        }
        if constexpr (Source::kIntegers) {
            finish_integers<T, kPart>(w, x, y, wide);
        } else if constexpr (Source::kIntegerPairs) {
            finish<T, kPart, kPart + 1, false>(
                w, x, y, [&](int t, int) { return wide[t]; }, [&w](int part) { return w.scale(part); });
        }
    }

    // The accumulator's start for the zero point, which is 32 where scales are pairs.
    template <class Source>
    EDGELLM_INLINE static __m256i half_start(const Avx2::Terms& terms, int half) {
        const __m256i start = Avx2::broadcast_word(half == 0 ? &terms.low_start : &terms.high_start);
        if constexpr (!Source::kIntegers) {
            return start;
        } else if constexpr (Source::Format::kOffset == 0) {
            return Avx2::zero();
        } else {
            return _mm256_srai_epi16(start, 5 - log2_of(Source::Format::kOffset));
        }
    }

    // As word_tile does.
    template <int T, int kPart, class Source, class Rows>
    EDGELLM_INLINE static void finish_integers(const Source& w, const Rows& x, float* y,
                                               const __m256i (&wide)[T]) {
        const __m256 scale = w.scale(kPart);
        __m256 low, more;  // minimum of all columns, and what the last 16 have more
        if constexpr (Source::kHalfMinimums) {
            low = w.half_minimum(0, kPart);
            more = _mm256_sub_ps(w.half_minimum(1, kPart), low);
        }
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) {
            float* to = sums_of<Avx2, T>(y, kPart, t);
            const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.of(t).factor));
            __m256 v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide[t]), factor, _mm256_loadu_ps(to));
            if constexpr (Source::kHalfMinimums) {
                v = _mm256_fmadd_ps(low, _mm256_set1_ps(x.of(t).sum), v);
                v = _mm256_fmadd_ps(more, _mm256_set1_ps(x.of(t).high), v);
            }
            _mm256_storeu_ps(to, v);
        }
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
        finish<T, kFirst, kLast, false>(
            w, x, y, [&](int t, int part) { return sum[t][part]; }, [&w](int part) { return w.scale(part); });
    }
};

}  // namespace

EDGELLM_LINEAR_KERNELS(Avx2, Avx2Engine)

}  // namespace edgellm
