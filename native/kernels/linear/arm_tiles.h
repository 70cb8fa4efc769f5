// SPDX-License-Identifier: MIT
// Engine of the sets of aarch64. Sums stay in registers over a run of blocks, because a store of 128 bits
// takes two turns of the vector pipes. Half a panel, 8 rows, is a tile's: its sums, dots, codes and
// activations are together the 32 registers.
//
// Codes are signed. A panel that multiplies many tokens is expanded, half by half, into blocks whose codes
// have lost their zero point and lie in the order that the set reads.
//
// A set S has, beside its registers:
//   kUnits, kTokens         a sum is a register of 8 / kUnits rows and kTokens tokens
//   kSteps                  registers of codes of a unit and 16 columns
//   kCodesAtOnce            registers of codes that are loaded together: 2 or 4, side by side
//   kLoadsHalves            activations of a half are loaded when its turn comes: registers are few
//   Activations             16 columns of kTokens tokens
//   code_class(magnitude)   the largest magnitude of codes that are multiplied in the same way
//   Dot<class, n>           dot of a unit over n registers of codes: add<which of them, step>
//   place_codes, place      put the registers of 4 rows where the set reads them
//   Chunk                   activations of a chunk of columns, as the set reads them
//   Sizes                   tokens of a tile, in units of kTokens
//   Lanes                   the set of kTokens 1 that reads panels as they are packed
#pragma once

#include <utility>

#include "kernels/linear/arm_packed.h"

namespace edgellm {
namespace {

constexpr int kTileRows = 8;
constexpr size_t kArmChunkBlocks = 32;  // blocks in work at a time: 10 to 16 KB for half a panel
constexpr size_t kPackedTokens = 4;     // up to so many tokens panels are read as they are packed

// Calls f.operator()<0>() to f.operator()<n - 1>(): registers and lanes are constants.
template <int n, class F>
EDGELLM_INLINE void for_each_constant(const F& f) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (f.template operator()<i>(), ...);
    }(std::make_integer_sequence<int, n>());
}

// ---- Weights ----

// 8 rows x 32 columns.
template <class S, CodeTraits kTraits>
struct alignas(16) RowsBlock {
    static constexpr int kScales = kTraits.pairs ? 2 : 1;
    static constexpr int kMinimums = !kTraits.minimum ? 0 : kTraits.words ? 2 : 1;
    static constexpr int kFactors = kTraits.words ? 2 : 0;

    int8_t codes[2][kTileRows * 16];  // [half][step][unit][16]
    float fields[kScales + kMinimums + kFactors][4 * S::kUnits];

    float* scale(int half) { return fields[kScales == 2 ? half : 0]; }
    float* minimum(int half) { return fields[kScales + (kMinimums == 2 ? half : 0)]; }
    float* factor(int half) { return fields[kScales + kMinimums + half]; }
};

// Blocks of both halves of a panel, `distance` apart. Returns false if all minimums are zero.
template <class S, class Source, class Block>
bool expand_rows(const Source& source, size_t n_blocks, Block* out, size_t distance) {
    using Rows = PackedRows<S, Source, 4>;
    Rows rows(source, 0);
    uint32x4_t minimums = vdupq_n_u32(0);
    for (size_t b = 0; b < n_blocks; ++b, ++out, rows.next()) {
        rows.begin();
        EDGELLM_UNROLL
        for (int part = 0; part < 4; ++part) {
            int8x16_t codes[8];
            EDGELLM_UNROLL
            for (int group = 0; group < 8; ++group)
                codes[group] = vsubq_s8(read_codes(rows.source, group, part), vdupq_n_s8(Rows::kZeroPoint));
            Block& to = out[part / 2 * distance];
            const auto place = [part](float* field, float32x4_t v) { S::place(v, part % 2, field); };
            EDGELLM_UNROLL
            for (int half = 0; half < 2; ++half) {
                S::place_codes(codes + 4 * half, part % 2, to.codes[half]);
                if constexpr (Source::kPairs) place(to.scale(half), rows.scale(half, part));
                if constexpr (Source::kIntegers) place(to.factor(half), rows.factor(half, part));
                if constexpr (Source::kHalfMinimums) {
                    const float32x4_t minimum = rows.minimum(half, part);
                    minimums |= vreinterpretq_u32_f32(minimum);
                    place(to.minimum(half), minimum);
                }
            }
            if constexpr (!Source::kPairs) place(to.scale(0), rows.scale(0, part));
            if constexpr (Source::kHasMinimum) place(to.minimum(0), rows.minimum(0, part));
        }
    }
    return Source::kHasMinimum || vmaxvq_u32(minimums << 1) != 0;
}

template <class S, CodeTraits kBlockTraits, bool kMinimum>
struct ExpandedRows {
    static constexpr CodeTraits kTraits = kBlockTraits;
    static constexpr bool kHasMinimum = kMinimum, kHalvesShareCodes = false;
    static constexpr int kUnits = S::kUnits, kZeroPoint = 0;
    static constexpr bool kIntegerScales = false;

    RowsBlock<S, kTraits>* block;

    EDGELLM_INLINE void begin() {}
    EDGELLM_INLINE void next() { ++block; }
    template <int kHalf>
    struct Cursor {
        static constexpr int kAtOnce = kHalf < 0 ? S::kCodesAtOnce : 1;
        const uint8_t* at;
        uint8x16_t bytes[kAtOnce];

        template <int half, int step>
        EDGELLM_INLINE void read(int8x16_t (&codes)[kUnits]) {
            for_each_constant<kUnits>([&]<int unit>() __attribute__((always_inline)) {
                constexpr int i = (step * kUnits + unit) % kAtOnce;
                if constexpr (i == 0) load_registers(at, bytes);
                codes[unit] = vreinterpretq_s8_u8(bytes[i]);
            });
        }
    };
    template <int kHalf>
    EDGELLM_INLINE Cursor<kHalf> codes() const {
        return {reinterpret_cast<const uint8_t*>(block->codes[kHalf < 0 ? 0 : kHalf]), {}};
    }
    EDGELLM_INLINE float32x4_t scale(int half, int unit) const {
        return vld1q_f32(block->scale(half) + 4 * unit);
    }
    EDGELLM_INLINE float32x4_t minimum(int half, int unit) const {
        return vld1q_f32(block->minimum(half) + 4 * unit);
    }
    EDGELLM_INLINE float32x4_t factor(int half, int unit) const {
        return vld1q_f32(block->factor(half) + 4 * unit);
    }
};

// ---- Activations, a lane for each row ----

// a * b[0] and sum + a * b[1]. GCC would fill a register with the element first, which takes another turn.
EDGELLM_INLINE float32x4_t mul_first(float32x4_t a, float32x2_t b) {
    float32x4_t product;
    __asm__("fmul %0.4s, %1.4s, %2.s[0]" : "=w"(product) : "w"(a), "w"(b));
    return product;
}
EDGELLM_INLINE float32x4_t fma_second(float32x4_t sum, float32x4_t a, float32x2_t b) {
    __asm__("fmla %0.4s, %1.4s, %2.s[1]" : "+w"(sum) : "w"(a), "w"(b));
    return sum;
}

struct LaneRows {
    BlockRows rows;

    EDGELLM_INLINE void next() { rows.next(); }
    template <int kHalf, int T>
    EDGELLM_INLINE void load_activations(int8x16_t (&to)[2][T]) const {
        if constexpr (kHalf >= 0) {
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                to[kHalf][t] = vld1q_s8(rows.q(t) + 16 * kHalf);
                __asm__ volatile("" : "+w"(to[kHalf][t]));  // else GCC loads lane by lane
            }
        } else {
            const auto* at = reinterpret_cast<const uint8_t*>(rows.q(0));
            for_each_constant<(T + 1) / 2>([&]<int i>() __attribute__((always_inline)) {
                constexpr int n = 2 * i + 1 < T ? 2 : 1;
                uint8x16_t v[2 * n];
                load_registers(at, v);
                EDGELLM_UNROLL
                for (int k = 0; k < 2 * n; ++k) to[k % 2][2 * i + k / 2] = vreinterpretq_s8_u8(v[k]);
            });
        }
    }
    // Share of a zero point in a dot over a half, or over the block (-1).
    EDGELLM_INLINE int32_t excess(int t, int half, int zero_point) const {
        const DotTerms& terms = terms_of<NeonRegisters>(rows.of(t));
        const int32_t of_32 = half == 0 ? terms.low_start : terms.high_start;
        return half < 0 ? -terms.start * zero_point : -of_32 * zero_point / 32;
    }
    // scale * factor
    EDGELLM_INLINE float32x4_t scaled(int t, float32x4_t scale) const {
        return mul_first(scale, vld1_f32(&rows.of(t).factor));
    }
    EDGELLM_INLINE float32x4_t add_scaled(int t, float32x4_t sum, float32x4_t dot, float32x4_t scale) const {
        return vfmaq_f32(sum, dot, scaled(t, scale));
    }
    EDGELLM_INLINE float32x4_t add_minimum(int t, float32x4_t sum, float32x4_t minimum) const {
        return fma_second(sum, minimum, vld1_f32(&rows.of(t).factor));
    }
    EDGELLM_INLINE float32x4_t add_minimum_high(int t, float32x4_t sum, float32x4_t minimum) const {
        return fma_second(sum, minimum, vld1_f32(&rows.of(t).sum));
    }

    template <int T, int kUnits>
    EDGELLM_INLINE static void load(float32x4_t (&sum)[T][kUnits], const float* y, size_t stride, size_t) {
        EDGELLM_UNROLL
        for (size_t t = 0; t < T; ++t) {
            EDGELLM_UNROLL
            for (size_t unit = 0; unit < kUnits; ++unit) sum[t][unit] = vld1q_f32(y + t * stride + 4 * unit);
        }
    }
    // `unit`: what complete sums are multiplied by, or nullptr.
    template <int T, int kUnits>
    EDGELLM_INLINE static void store(float32x4_t (&sum)[T][kUnits], const float* factor, float* y,
                                     size_t stride, size_t) {
        EDGELLM_UNROLL
        for (size_t t = 0; t < T; ++t) {
            EDGELLM_UNROLL
            for (size_t unit = 0; unit < kUnits; ++unit) {
                if (factor) sum[t][unit] = vmulq_n_f32(sum[t][unit], factor[t]);
                vst1q_f32(y + t * stride + 4 * unit, sum[t][unit]);
            }
        }
    }
};

// Activations of a chunk for sets that read them as they lie.
struct LaneChunk {
    BlockRows first;

    LaneChunk(const BlockRows& rows, size_t, size_t) : first(rows) {}
    LaneRows rows(size_t token) const {
        BlockRows rows = first;
        rows.codes += 32 * token;
        rows.terms += token;
        return {rows};
    }
};

// ---- Tiles ----

alignas(16) constexpr uint32_t kDotOrigins[4] = {kDotOrigin, kDotOrigin, kDotOrigin, kDotOrigin};
EDGELLM_INLINE int32x4_t load_start() {
    return vreinterpretq_s32_u32(load_register(kDotOrigins));
}

// A dot that started at the origin.
EDGELLM_INLINE float32x4_t value_of(int32x4_t dot, float32x4_t origin = vdupq_n_f32(kDotOriginValue)) {
    return vsubq_f32(vreinterpretq_f32_s32(dot), origin);
}

// Dots of all columns of a block (kHalf -1) or of a half, which start at the origin.
template <class S, int kHalf, int T, class Weights, class Rows>
EDGELLM_INLINE void multiply_block(const Weights& w, const Rows& x, int32x4_t (&result)[T][Weights::kUnits]) {
    constexpr int kUnits = Weights::kUnits, kSteps = S::kSteps;
    typename S::template Dot < Weights::kTraits.magnitude, kHalf<0 ? 2 * kSteps : kSteps> dot[T][kUnits];
    // Groups that lie in the same bytes follow each other: columns 4 j of both halves.
    constexpr bool kInTurn = kHalf < 0 && Weights::kHalvesShareCodes;
    typename S::Activations activations[2][T];
    constexpr bool kByHalf = kHalf < 0 && S::kLoadsHalves && !kInTurn;
    if constexpr (!kByHalf) x.template load_activations<kHalf>(activations);
    auto cursor = w.template codes<kHalf>();
    for_each_constant<(kHalf < 0 ? 2 : 1) * kSteps>([&]<int i>() __attribute__((always_inline)) {
        constexpr int half = kHalf >= 0 ? kHalf : kInTurn ? i % 2 : i / kSteps;
        constexpr int step = kInTurn ? i / 2 : i % kSteps;
        if constexpr (kByHalf && step == 0) x.template load_activations<half>(activations);
        int8x16_t codes[kUnits];
        cursor.template read<half, step>(codes);
        EDGELLM_UNROLL
        for (int unit = 0; unit < kUnits; ++unit) {
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                if constexpr (i == 0) dot[t][unit].begin();
                dot[t][unit].template add<i, step>(codes[unit], activations[half][t]);
            }
        }
    });
    EDGELLM_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) {
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) result[t][unit] = dot[t][unit].end();
    }
}

// Values of empty dots over a half, or over the block (-1): the origin and the zero point's share.
template <int kHalf, int T, class Weights, class Rows>
EDGELLM_INLINE void load_origins(const Rows& x, float32x4_t (&origin)[T]) {
    EDGELLM_UNROLL
    for (int t = 0; t < T; ++t) {
        if constexpr (Weights::kZeroPoint != 0) {
            const int32_t excess = x.excess(t, kHalf, Weights::kZeroPoint);
            origin[t] = vreinterpretq_f32_s32(vdupq_n_s32(kDotOrigin + excess));
        } else {
            origin[t] = vdupq_n_f32(kDotOriginValue);
        }
    }
}

// Columns of a block whose scale is one, to the sums.
template <class S, int kHalf, int T, class Weights, class Rows>
EDGELLM_INLINE void add_scaled_block(const Weights& w, const Rows& x,
                                     float32x4_t (&sum)[T][Weights::kUnits]) {
    int32x4_t dot[T][Weights::kUnits];
    multiply_block<S, kHalf>(w, x, dot);
    float32x4_t origin[T];
    load_origins<kHalf, T, Weights>(x, origin);
    EDGELLM_UNROLL
    for (int unit = 0; unit < Weights::kUnits; ++unit) {
        const float32x4_t scale = w.scale(kHalf, unit);
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) {
            sum[t][unit] = x.add_scaled(t, sum[t][unit], value_of(dot[t][unit], origin[t]), scale);
        }
    }
}

// The same of one token for a half whose scale is an integer times the header's: dot * integer and `factor`,
// scale times factor of activations, are exact, so that sums have the same bits.
template <class S, int kHalf, class Weights, class Rows>
EDGELLM_INLINE void add_integer_half(const Weights& w, const Rows& x,
                                     const float32x4_t (&factor)[Weights::kUnits],
                                     float32x4_t (&sum)[1][Weights::kUnits]) {
    int32x4_t dot[1][Weights::kUnits];
    multiply_block<S, kHalf>(w, x, dot);
    float32x4_t origin[1];
    load_origins<kHalf, 1, Weights>(x, origin);
    EDGELLM_UNROLL
    for (int unit = 0; unit < Weights::kUnits; ++unit) {
        const float32x4_t value = vmulq_f32(value_of(dot[0][unit], origin[0]), w.factor(kHalf, unit));
        sum[0][unit] = vfmaq_f32(sum[0][unit], value, factor[unit]);
    }
}

// A block with an integer for each half. Floats have room for both products and their sum.
template <class S, int T, class Weights, class Rows>
EDGELLM_INLINE void add_words_block(const Weights& w, const Rows& x, float32x4_t (&sum)[T][Weights::kUnits]) {
    constexpr int kLargestFactor16 = 32;  // of 16 columns: Q3_K's
    static_assert(128 * 127 * kBlockColumns * kLargestFactor16 <= 1 << 24);
    int32x4_t dot[T][Weights::kUnits];
    float32x4_t value[T][Weights::kUnits];
    multiply_block<S, 0>(w, x, dot);
    EDGELLM_UNROLL
    for (int unit = 0; unit < Weights::kUnits; ++unit) {
        const float32x4_t factor = w.factor(0, unit);
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) value[t][unit] = vmulq_f32(value_of(dot[t][unit]), factor);
    }
    multiply_block<S, 1>(w, x, dot);
    EDGELLM_UNROLL
    for (int unit = 0; unit < Weights::kUnits; ++unit) {
        const float32x4_t factor = w.factor(1, unit), scale = w.scale(0, unit);
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) {
            const float32x4_t both = vfmaq_f32(value[t][unit], value_of(dot[t][unit]), factor);
            sum[t][unit] = x.add_scaled(t, sum[t][unit], both, scale);
        }
    }
}

// Sums of T units of tokens over a run of blocks, from y or from zero, to y, whose rows are `stride` apart.
// `factor`: what complete sums are multiplied by, or nullptr.
template <class S, int T, class Weights, class Rows>
[[gnu::noinline]] void arm_tile(Weights w, size_t n_blocks, Rows x, size_t n_tokens, bool from_zero,
                                const float* factor, float* y, size_t stride) {
    constexpr int kUnits = Weights::kUnits;
    __asm__ volatile("" ::: "memory");  // load_registers reads what was stored before
    float32x4_t sum[T][kUnits];
    if (from_zero) {
        EDGELLM_UNROLL
        for (int i = 0; i < T * kUnits; ++i) sum[i / kUnits][i % kUnits] = vdupq_n_f32(0.0f);
    } else {
        Rows::load(sum, y, stride, n_tokens);
    }
    for (size_t b = 0; b < n_blocks; ++b, w.next(), x.next()) {
        w.begin();
        if constexpr (Weights::kTraits.words) {
            add_words_block<S>(w, x, sum);
        } else if constexpr (Weights::kIntegerScales && T == 1) {
            float32x4_t factor[kUnits];
            EDGELLM_UNROLL
            for (int unit = 0; unit < kUnits; ++unit) factor[unit] = x.scaled(0, w.header_scale(unit));
            add_integer_half<S, 0>(w, x, factor, sum);
            add_integer_half<S, 1>(w, x, factor, sum);
        } else if constexpr (Weights::kTraits.pairs) {
            add_scaled_block<S, 0>(w, x, sum);
            add_scaled_block<S, 1>(w, x, sum);
        } else {
            add_scaled_block<S, -1>(w, x, sum);
        }
        if constexpr (Weights::kHasMinimum) {
            EDGELLM_UNROLL
            for (int unit = 0; unit < kUnits; ++unit) {
                const float32x4_t minimum = w.minimum(0, unit);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) sum[t][unit] = x.add_minimum(t, sum[t][unit], minimum);
                if constexpr (Weights::kTraits.words) {
                    const float32x4_t high = w.minimum(1, unit);
                    EDGELLM_UNROLL
                    for (int t = 0; t < T; ++t) sum[t][unit] = x.add_minimum_high(t, sum[t][unit], high);
                }
            }
        }
    }
    Rows::store(sum, factor, y, stride, n_tokens);
}

// ---- Order of panels, columns and tokens ----

template <class S>
struct ArmEngine {
    using Simd = S;
    using Tiles = TileSizes<4, 3, 2, 1>;  // of formats of numbers

    template <class Source>
    static void multiply(const Call& c) {
        if (c.n_tokens <= kPackedTokens) {
            multiply_packed<Source>(c);
        } else {
            multiply_expanded<Source>(c);
        }
    }

  private:
    // Runs a tile on rows of y, or on a copy where the panel has rows past n_out.
    //   tile(y, stride): 16 rows of T tokens from `token` on, added to where `zero` is false
    template <int T, class Tile>
    EDGELLM_INLINE static void run_on_rows(const Call& c, size_t p, size_t token, size_t n_tokens, bool zero,
                                           const Tile& tile) {
        if ((p + 1) * kPanelRows <= c.m.n_out) {
            return tile(c.y + token * c.ldy + (p - c.first) * kPanelRows, c.ldy);
        }
        alignas(64) float copy[T * kPanelRows];
        for (size_t t = 0; t < n_tokens && !zero; ++t)
            c.template load<S, 1>(p, token + t, false, copy + t * kPanelRows);
        tile(copy, kPanelRows);
        for (size_t t = 0; t < n_tokens; ++t) c.template store<S, 1>(p, token + t, copy + t * kPanelRows);
    }

    // Few tokens: panels are read as they are packed, in order.
    template <class Source>
    static void multiply_packed(const Call& c) {
        using Lanes = typename S::Lanes;
        for (size_t t0 = 0, t_end; t0 < c.n_tokens; t0 = t_end) {
            t_end = t0 + c.group_tokens(t0);
            for (size_t p = c.first; p < c.last; ++p) {
                for (size_t t = t0; t < t_end;) {
                    Lanes::PackedSizes::pick(t_end - t, [&]<int T>() {
                        run_on_rows<T>(c, p, t, T, true, [&](float* y, size_t stride) {
                            constexpr int kUnits = Lanes::packed_units(T);
                            for (int part = 0; part < 4; part += kUnits) {
                                arm_tile<Lanes, T>(PackedRows<Lanes, Source, kUnits>(Source(c.m, p, 0), part),
                                                   c.m.n_in / 32, LaneRows{c.rows(t, 0)}, T, true,
                                                   c.xq->unit + c.token0 + t, y + 4 * part, stride);
                            }
                        });
                        t += T;
                    });
                }
            }
        }
    }

    // Many tokens: a chunk of columns of a panel is expanded and multiplies the tokens' chunk in L2.
    template <class Source>
    static void multiply_expanded(const Call& c) {
        constexpr CodeTraits kTraits = traits_of<S, Source>(Source::kCentre);
        RowsBlock<S, kTraits> blocks[2 * kArmChunkBlocks];
        const size_t n_blocks = c.m.n_in / 32, step = chunk_blocks<Source, kArmChunkBlocks>(n_blocks);
        for (size_t t0 = 0, n_tokens; t0 < c.n_tokens; t0 += n_tokens) {
            n_tokens = c.group_tokens(t0);
            for (size_t p0 = c.first; p0 < c.last; p0 += kGroupPanels) {
                for (size_t b = 0; b < n_blocks; b += step) {
                    const size_t n = std::min(step, n_blocks - b);
                    const float* unit = b + n == n_blocks ? c.xq->unit + c.token0 + t0 : nullptr;
                    const typename S::Chunk chunk(c.rows(t0, b), n_tokens, n);
                    for (size_t p = p0; p < std::min(c.last, p0 + kGroupPanels); ++p) {
                        const bool minimums = expand_rows<S>(Source(c.m, p, b), n, blocks, kArmChunkBlocks);
                        const auto run = [&]<bool kMinimum>() {
                            using Weights = ExpandedRows<S, kTraits, kMinimum>;
                            multiply_panel<Weights>(c, p, blocks, n, chunk, t0, n_tokens, b == 0, unit);
                        };
                        if constexpr (kTraits.words) {
                            minimums ? run.template operator()<true>() : run.template operator()<false>();
                        } else {
                            run.template operator()<kTraits.minimum>();
                        }
                    }
                }
            }
        }
    }

    // An expanded chunk of panel p times tokens t0 and up.
    template <class Weights, class Block>
    static void multiply_panel(const Call& c, size_t p, Block* blocks, size_t n_blocks,
                               const typename S::Chunk& chunk, size_t t0, size_t n_tokens, bool zero,
                               const float* unit) {
        for (size_t t = 0; t < n_tokens;) {
            S::Sizes::pick((n_tokens - t + S::kTokens - 1) / S::kTokens, [&]<int T>() {
                const size_t n = std::min(n_tokens - t, size_t{T} * S::kTokens);
                run_on_rows<T * S::kTokens>(c, p, t0 + t, n, zero, [&](float* y, size_t stride) {
                    for (size_t half = 0; half < 2; ++half) {
                        arm_tile<S, T>(Weights{blocks + half * kArmChunkBlocks}, n_blocks, chunk.rows(t), n,
                                       zero, unit ? unit + t : nullptr, y + half * kTileRows, stride);
                    }
                });
                t += n;
            });
        }
    }
};

}  // namespace
}  // namespace edgellm
