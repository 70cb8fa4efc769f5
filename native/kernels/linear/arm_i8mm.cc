// SPDX-License-Identifier: MIT
// Armv8.6 with 8-bit matrix products: SMMLA multiplies 2 rows x 8 columns by 2 tokens. A sum is 2 tokens x 2
// rows: rows r and r + 1 of one token, then of the next.
#include "kernels/linear/arm_dotprod.h"

namespace edgellm {
namespace {

// 32 columns of two tokens, each factor twice.
struct TokenPair {
    int8_t codes[2][2][16];  // [half][8 columns][token][8]
    float factor[4], sum[4], high[4];
};

struct PairRows {
    const TokenPair* pair;

    struct Activations {
        int8x16_t columns[2];
    };

    EDGELLM_INLINE void next() { pair += kBlockTokens / 2; }
    template <int kHalf, int T>
    EDGELLM_INLINE void load_activations(Activations (&to)[2][T]) const {
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t)
            to[kHalf][t] = {vld1q_s8(pair[t].codes[kHalf][0]), vld1q_s8(pair[t].codes[kHalf][1])};
    }
    EDGELLM_INLINE float32x4_t add_scaled(int t, float32x4_t sum, float32x4_t dot, float32x4_t scale) const {
        return vfmaq_f32(sum, dot, vmulq_f32(scale, vld1q_f32(pair[t].factor)));
    }
    EDGELLM_INLINE float32x4_t add_minimum(int t, float32x4_t sum, float32x4_t minimum) const {
        return vfmaq_f32(sum, minimum, vld1q_f32(pair[t].sum));
    }
    EDGELLM_INLINE float32x4_t add_minimum_high(int t, float32x4_t sum, float32x4_t minimum) const {
        return vfmaq_f32(sum, minimum, vld1q_f32(pair[t].high));
    }

    // First or second halves of two registers.
    EDGELLM_INLINE static float32x4_t firsts(float32x4_t a, float32x4_t b) {
        return vcombine_f32(vget_low_f32(a), vget_low_f32(b));
    }
    EDGELLM_INLINE static float32x4_t seconds(float32x4_t a, float32x4_t b) {
        return vcombine_f32(vget_high_f32(a), vget_high_f32(b));
    }
    template <int T, int kUnits>
    EDGELLM_INLINE static void load(float32x4_t (&sum)[T][kUnits], const float* y, size_t stride,
                                    size_t n_tokens) {
        EDGELLM_UNROLL
        for (size_t i = 0; i < T * kUnits / 2; ++i) {
            const size_t t = i / (kUnits / 2), unit = i % (kUnits / 2) * 2;
            const float* row = y + 2 * t * stride + 2 * unit;
            const float32x4_t a = vld1q_f32(row);
            const float32x4_t b = 2 * t + 1 < n_tokens ? vld1q_f32(row + stride) : a;
            sum[t][unit] = firsts(a, b);
            sum[t][unit + 1] = seconds(a, b);
        }
    }
    template <int T, int kUnits>
    EDGELLM_INLINE static void store(float32x4_t (&sum)[T][kUnits], const float* factor, float* y,
                                     size_t stride, size_t n_tokens) {
        EDGELLM_UNROLL
        for (size_t i = 0; i < T * kUnits; ++i) {
            const size_t t = i / kUnits, unit = i % (kUnits / 2) * 2,
                         token = 2 * t + i % kUnits / (kUnits / 2);
            if (token >= n_tokens) continue;
            float32x4_t v = token % 2 == 0 ? firsts(sum[t][unit], sum[t][unit + 1])
                                           : seconds(sum[t][unit], sum[t][unit + 1]);
            if (factor) v = vmulq_n_f32(v, factor[token]);
            vst1q_f32(y + token * stride + 2 * unit, v);
        }
    }
};

class PairChunk {
  public:
    PairChunk(BlockRows rows, size_t n_tokens, size_t n_blocks) {
        for (size_t b = 0; b < n_blocks; ++b, rows.next()) {
            for (size_t t = 0; t < n_tokens; t += 2) {
                // A token without a neighbour is its own.
                fill(rows, t, std::min(t + 1, n_tokens - 1), &pairs_[b][t / 2]);
            }
        }
    }

    static void fill(const BlockRows& rows, size_t a, size_t b, TokenPair* to) {
        EDGELLM_UNROLL
        for (size_t half = 0; half < 2; ++half) {
            const int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(rows.codes + 32 * a + 16 * half));
            const int64x2_t y = vreinterpretq_s64_s8(vld1q_s8(rows.codes + 32 * b + 16 * half));
            vst1q_s8(to->codes[half][0], vreinterpretq_s8_s64(vzip1q_s64(x, y)));
            vst1q_s8(to->codes[half][1], vreinterpretq_s8_s64(vzip2q_s64(x, y)));
        }
        // Factor, sum, high, and a term that is not used.
        const float32x4_t x = vld1q_f32(&rows.terms[a].factor), y = vld1q_f32(&rows.terms[b].factor);
        vst1q_f32(to->factor, vcombine_f32(vdup_laneq_f32(x, 0), vdup_laneq_f32(y, 0)));
        vst1q_f32(to->sum, vcombine_f32(vdup_laneq_f32(x, 1), vdup_laneq_f32(y, 1)));
        vst1q_f32(to->high, vcombine_f32(vdup_laneq_f32(x, 2), vdup_laneq_f32(y, 2)));
    }

    PairRows rows(size_t token) const { return {pairs_[0] + token / 2}; }

  private:
    TokenPair pairs_[kArmChunkBlocks][kBlockTokens / 2];
};

struct I8mm : NeonRegisters {
    static constexpr int kUnits = 4, kTokens = 2, kSteps = 2, kCodesAtOnce = 2;
    static constexpr bool kLoadsHalves = true;
    using Sizes = TileSizes<2, 1>;
    using Lanes = DotprodRegisters;
    using Activations = PairRows::Activations;
    using Chunk = PairChunk;
    static constexpr int code_class(int) { return 128; }

    template <int kMagnitude, int n>
    struct Dot {
        int32x4_t sum;

        EDGELLM_INLINE void begin() { sum = load_start(); }
        template <int i, int kStep>
        EDGELLM_INLINE void add(int8x16_t codes, const Activations& x) {
            __asm__ volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x.columns[kStep]), "w"(codes));
        }
        EDGELLM_INLINE int32x4_t end() const { return sum; }
    };

    // Two groups of 4 columns of a row side by side.
    EDGELLM_INLINE static void place_codes(const int8x16_t* groups, int part, int8_t* to) {
        EDGELLM_UNROLL
        for (int i = 0; i < 2; ++i) {
            const uint32x4_t a = vreinterpretq_u32_s8(groups[2 * i]),
                             b = vreinterpretq_u32_s8(groups[2 * i + 1]);
            int8_t* at = to + (i * kUnits + 2 * part) * 16;
            vst1q_s8(at, vreinterpretq_s8_u32(vzip1q_u32(a, b)));
            vst1q_s8(at + 16, vreinterpretq_s8_u32(vzip2q_u32(a, b)));
        }
    }
    // Values of two rows, twice.
    EDGELLM_INLINE static void place(float32x4_t v, int part, float* to) {
        vst1q_f32(to + 8 * part, PairRows::firsts(v, v));
        vst1q_f32(to + 8 * part + 4, PairRows::seconds(v, v));
    }
};

}  // namespace

EDGELLM_LINEAR_KERNELS(I8mm, ArmEngine<I8mm>)

}  // namespace edgellm
