// SPDX-License-Identifier: MIT
// Tiles: some panels x T tokens over a run of blocks. The sums y[panel][token][row] stay in memory (L1) and
// are read and written once per block; tabled_tile keeps them in registers, where there are enough:
//   y = fma(integer dot, d_w * factor_x, y);  y = fma(m_w, sum_x, y)
// in ascending order of blocks, then times the token's unit. The second fma only where the zero point is not
// in the accumulator's start. The operations are the same for every tile, so results do not depend on the
// batch. A slot is a register of rows: part p of panel n is slot n * S::kParts + p.
#pragma once

#include "kernels/linear/expanded.h"

namespace edgellm {
namespace {

// ---- Activations of a tile, block by block ----

struct BlockRows {
    const int8_t* codes;
    const QuantTerms* terms;
    size_t stride;

    BlockRows(const QuantRows& rows, size_t token, size_t block)
        : codes(rows.q + 32 * rows.index(token, block)),
          terms(rows.terms + rows.index(token, block)),
          stride(rows.group_rows(token)) {}

    EDGELLM_INLINE const int8_t* q(int t) const { return codes + 32 * t; }
    EDGELLM_INLINE const QuantTerms& of(int t) const { return terms[t]; }
    EDGELLM_INLINE void next() {
        codes += 32 * stride;
        terms += stride;
    }
};

// A chunk of columns of some tokens, codes as words in the order of WordBlock: 16 even ones of each block,
// then 16 odd ones.
struct alignas(64) WordChunk {
    int16_t codes[kChunkBlocks<int16_t>][kBlockTokens][32];
    QuantTerms terms[kChunkBlocks<int16_t>][kBlockTokens];
};

struct WordRows {
    const int16_t* codes;
    const QuantTerms* terms;

    WordRows(const WordChunk& chunk, size_t token)
        : codes(chunk.codes[0][token]), terms(chunk.terms[0] + token) {}

    EDGELLM_INLINE const int16_t* q(int t) const { return codes + 32 * t; }
    EDGELLM_INLINE const QuantTerms& of(int t) const { return terms[t]; }
    EDGELLM_INLINE void next() {
        codes += 32 * kBlockTokens;
        terms += kBlockTokens;
    }
};

template <class S>
void widen_rows(BlockRows rows, size_t n_tokens, size_t n_blocks, WordChunk* out) {
    for (size_t b = 0; b < n_blocks; ++b, rows.next()) {
        for (size_t t = 0; t < n_tokens; ++t)
            S::widen(rows.codes + 32 * t, out->codes[b][t], out->codes[b][t] + 16);
        std::memcpy(out->terms[b], rows.terms, n_tokens * sizeof(QuantTerms));
    }
}

template <class S, int T>
EDGELLM_INLINE float* sums_of(float* y, int slot, int t) {
    return y + (slot / S::kParts * T + t) * 16 + slot % S::kParts * (16 / S::kParts);
}

// ---- Words ----

// kPanels panels in turn, kChunkBlocks blocks each.
template <class S, bool kHasMin, int kPanels, int T>
void word_tile(const WordBlock* w, size_t n_blocks, WordRows x, float* y) {
    constexpr int kSlots = kPanels * S::kParts;
    const auto of = [&w](int slot) -> const WordBlock& {
        return w[static_cast<size_t>(slot / S::kParts) * kChunkBlocks<int16_t>];
    };
    const auto row = [](int slot) { return slot % S::kParts * (16 / S::kParts); };
    for (size_t b = 0; b < n_blocks; ++b, ++w, x.next()) {
        typename S::Ints dot[T][kSlots];
        keep_in_memory(y);
        EDGELLM_UNROLL
        for (int k = 0; k < 16; ++k) {
            typename S::Bytes codes[kSlots];
            EDGELLM_UNROLL
            for (int slot = 0; slot < kSlots; ++slot)
                codes[slot] = S::load(of(slot).codes[k] + 4 * row(slot));
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                if (k == 0) clear<S, kSlots>(dot[t]);
                S::template dot_words<kSlots>(dot[t], codes, x.q(t) + k % 2 * 16 + k / 2 * 2);
            }
        }
        EDGELLM_UNROLL
        for (int slot = 0; slot < kSlots; ++slot) {
            const auto weight_scale = S::load_floats(of(slot).scale + row(slot));
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                float* to = sums_of<S, T>(y, slot, t);
                auto v = S::fma(S::to_floats(dot[t][slot]),
                                S::mul(weight_scale, S::broadcast(x.of(t).factor)), S::load_floats(to));
                if constexpr (kHasMin) {
                    v = S::fma(S::load_floats(of(slot).minimum + row(slot)), S::broadcast(x.of(t).sum), v);
                    v = S::fma(S::load_floats(of(slot).minimum_high + row(slot)), S::broadcast(x.of(t).high),
                               v);
                }
                S::store_floats(to, v);
            }
        }
    }
}

// ---- Floats ----

template <class F>
constexpr size_t kColumnBytes = kPanelRows * sizeof(typename F::Block);

template <class S, class F>
EDGELLM_INLINE typename S::Floats load_float_column(const uint8_t* data, int part) {
    return F::template load<S>(data + static_cast<size_t>(part) * (kColumnBytes<F> / S::kParts));
}

template <class S, class F>
void widen_columns(const uint8_t* w, size_t n_columns, float* out) {
    for (size_t k = 0; k < n_columns; ++k, w += kColumnBytes<F>, out += 16) {
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            S::store_floats(out + part * (16 / S::kParts), load_float_column<S, F>(w, part));
        }
    }
}

// One panel; sums are added to, column by column in order.
template <class S, class F, int T>
void float_tile(const uint8_t* w, size_t n_columns, const float* x, size_t ldx, float* y) {
    typename S::Floats sum[T][S::kParts];
    EDGELLM_UNROLL
    for (int t = 0; t < T; ++t) {
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) sum[t][part] = S::load_floats(sums_of<S, T>(y, part, t));
    }
    for (size_t k = 0; k < n_columns; ++k, w += kColumnBytes<F>) {
        if (k % (64 / kColumnBytes<F>) == 0) __builtin_prefetch(w + kPrefetchBytes);
        typename S::Floats column[S::kParts];
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) column[part] = load_float_column<S, F>(w, part);
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) {
            const auto value = S::broadcast(x[static_cast<size_t>(t) * ldx + k]);
            EDGELLM_UNROLL
            for (int part = 0; part < S::kParts; ++part)
                sum[t][part] = S::fma(column[part], value, sum[t][part]);
        }
    }
    EDGELLM_UNROLL
    for (int t = 0; t < T; ++t) {
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) S::store_floats(sums_of<S, T>(y, part, t), sum[t][part]);
    }
}

// Tile sizes, largest first; the last is 1.
template <int... kSizes>
struct TileSizes {
    static constexpr int kLargest = std::max({kSizes...});

    // Calls f.template operator()<T>() with the largest T that n tokens fill.
    template <class F>
    EDGELLM_INLINE static void pick(size_t n, const F& f) {
        bool done = false;
        ((done || n < kSizes ? void() : (f.template operator()<kSizes>(), void(done = true))), ...);
    }
};

// ---- Engine for sets whose dot product of bytes goes straight to 32 bits ----

template <SimdByteDots S, size_t kLimit, class PackedSizes, class Sizes, int kPanels>
struct WideEngine {
    using Simd = S;
    using PackedTiles = PackedSizes;             // of panels read as they are packed,
    using Tiles = Sizes;                         // and of expanded ones
    static constexpr int kTilePanels = kPanels;  // panels of a tile if expanded
    static constexpr int kLargestLevel = 127;

    // Up to so many tokens panels are read as they are packed.
    static size_t packed_limit() { return kLimit; }

    // Formats of one class share their tiles.
    static constexpr int code_class(int) { return 255; }

    // References, because reading a copy waits for the narrower stores that wrote it.
    template <int T, class Source, class Rows>
    [[gnu::noinline]] static void tile(const Source& source, size_t n_blocks, const Rows& rows, float* y) {
        constexpr int kSlots = Source::kSlots;
        Source w = source;
        Rows x = rows;
        for (size_t b = 0; b < n_blocks; ++b, w.next(), x.next()) {
            keep_in_memory(y);
            typename S::Ints dot[T][kSlots];
            if constexpr (Source::kIntegers) {
                typename S::Ints sum[T][kSlots];
                add_integer_half<T, 0>(w, x, dot, sum);
                add_integer_half<T, 1>(w, x, dot, sum);
                finish_integers(y, sum, x, w);
            } else if constexpr (Source::kPairs) {
                // A scale per 16 columns: two half blocks.
                static_assert(Source::kCentred && !Source::kHasMinimum);
                add_groups<T, 0, 4>(w, x, dot,
                                    [&x](int t) { return S::repeat(terms_of<S>(x.of(t)).low_start); });
                finish(y, dot, x, w, [&w](int slot) { return w.pair_scale(0, slot); });
                add_groups<T, 4, 8>(w, x, dot,
                                    [&x](int t) { return S::repeat(terms_of<S>(x.of(t)).high_start); });
                finish(y, dot, x, w, [&w](int slot) { return w.pair_scale(1, slot); });
            } else {
                add_groups<T, 0, 8>(w, x, dot,
                                    [&](int t) { return S::shifted(terms_of<S>(x.of(t)).start, w.shift); });
                finish(y, dot, x, w, [&w](int slot) { return w.scale(slot); });
            }
        }
    }

    // y of T tokens, `stride` apart, from y or from zero. `unit`: the tokens' units if this completes y, else
    // nullptr. Sums stay in registers, as many as the dots take.
    template <int T, class Source, class Rows>
    [[gnu::noinline]] static void tabled_tile(const Source& source, const ScaleBlock<Source::kPairs>* table,
                                              size_t n_blocks, const Rows& rows, bool from_zero,
                                              const float* unit, float* y, size_t stride) {
        static_assert(S::kParts == 1);
        Source w = source;
        Rows x = rows;
        typename S::Floats sum[T];
        EDGELLM_UNROLL
        for (size_t t = 0; t < T; ++t)
            sum[t] = from_zero ? S::broadcast(0.0f) : S::load_floats(y + t * stride);
        for (size_t b = 0; b < n_blocks; ++b, ++table, w.next(), x.next()) {
            typename S::Ints dot[T][1];
            if constexpr (Source::kPairs) {
                add_groups<T, 0, 4, false>(w, x, dot,
                                           [&x](int t) { return S::repeat(terms_of<S>(x.of(t)).low_start); });
                add_scaled(sum, dot, x, table->scale[0]);
                add_groups<T, 4, 8, false>(
                    w, x, dot, [&x](int t) { return S::repeat(terms_of<S>(x.of(t)).high_start); });
                add_scaled(sum, dot, x, table->scale[1]);
            } else {
                add_groups<T, 0, 8, false>(
                    w, x, dot, [&](int t) { return S::shifted(terms_of<S>(x.of(t)).start, w.shift); });
                add_scaled(sum, dot, x, table->scale[0]);
            }
            if constexpr (Source::kHasMinimum) {
                const auto minimum = S::load_floats(table->minimum);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) sum[t] = S::fma(minimum, S::broadcast(x.of(t).sum), sum[t]);
            }
        }
        EDGELLM_UNROLL
        for (size_t t = 0; t < T; ++t) {
            if (unit) sum[t] = S::mul(sum[t], S::broadcast(unit[t]));
            S::store_floats(y + t * stride, sum[t]);
        }
    }

  private:
    template <int T, class Rows>
    EDGELLM_INLINE static void add_scaled(typename S::Floats (&sum)[T], const typename S::Ints (&dot)[T][1],
                                          const Rows& x, const float (&scale)[kMantissas][16]) {
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) {
            const auto& terms = x.of(t);
            sum[t] = S::fma(S::to_floats(S::shifted(dot[t][0], terms_of<S>(terms).shift)),
                            S::load_floats(scale[0] + mantissa_offset(terms.factor)), sum[t]);
        }
    }

    template <int T, int kFirst, int kLast, bool kFetch = true, class Source, class Rows, class Start>
    EDGELLM_INLINE static void add_groups(const Source& w, const Rows& x,
                                          typename S::Ints (&dot)[T][Source::kSlots], const Start& start) {
        EDGELLM_UNROLL
        for (int group = kFirst; group < kLast; ++group) {
            typename S::Bytes codes[Source::kSlots];
            if constexpr (kFetch) w.prefetch(group);
            EDGELLM_UNROLL
            for (int slot = 0; slot < Source::kSlots; ++slot) codes[slot] = w.codes(group, slot);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                if (group == kFirst) {
                    if constexpr (Source::kCentred) {
                        std::fill_n(dot[t], Source::kSlots, start(t));
                    } else {
                        clear<S, Source::kSlots>(dot[t]);
                    }
                }
                S::template dot_bytes<Source::kSlots>(dot[t], codes, x.q(t) + 4 * group);
            }
        }
    }

    // Dots of 16 columns times their integers, which are exact.
    template <int T, int kHalf, class Source, class Rows>
    EDGELLM_INLINE static void add_integer_half(const Source& w, const Rows& x,
                                                typename S::Ints (&dot)[T][Source::kSlots],
                                                typename S::Ints (&sum)[T][Source::kSlots]) {
        add_groups<T, 4 * kHalf, 4 * kHalf + 4>(w, x, dot, [&](int t) {
            const auto& terms = terms_of<S>(x.of(t));
            const int32_t start = kHalf == 0 ? terms.low_start : terms.high_start;  // of a zero point of 32
            return S::repeat(w.shift >= 5 ? start << (w.shift - 5) : start >> (5 - w.shift));
        });
        EDGELLM_UNROLL
        for (int slot = 0; slot < Source::kSlots; ++slot) {
            const auto factor = w.integer(kHalf, slot);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t)
                sum[t][slot] = S::mul_add(dot[t][slot], factor, kHalf == 0 ? S::zero() : sum[t][slot]);
        }
    }

    // As word_tile does.
    template <int T, int kSlots, class Source, class Rows>
    EDGELLM_INLINE static void finish_integers(float* y, const typename S::Ints (&sum)[T][kSlots],
                                               const Rows& x, const Source& w) {
        EDGELLM_UNROLL
        for (int slot = 0; slot < kSlots; ++slot) {
            // Read before y is written: the compiler cannot know that they do not overlap.
            const auto scale = w.scale(slot);
            typename S::Floats low, more;  // minimum of all columns, and what the last 16 have more
            if constexpr (Source::kHalfMinimums) {
                low = w.half_minimum(0, slot);
                more = S::sub(w.half_minimum(1, slot), low);
            }
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                float* to = sums_of<S, T>(y, slot, t);
                const auto factor = S::mul(scale, S::broadcast(x.of(t).factor));
                auto v = S::fma(S::to_floats(sum[t][slot]), factor, S::load_floats(to));
                if constexpr (Source::kHalfMinimums) {
                    v = S::fma(low, S::broadcast(x.of(t).sum), v);
                    v = S::fma(more, S::broadcast(x.of(t).high), v);
                }
                S::store_floats(to, v);
            }
        }
    }

    template <int T, int kSlots, class Source, class Rows, class Scale>
    EDGELLM_INLINE static void finish(float* y, const typename S::Ints (&dot)[T][kSlots], const Rows& x,
                                      const Source& w, const Scale& scale_of) {
        EDGELLM_UNROLL
        for (int slot = 0; slot < kSlots; ++slot) {
            const auto scale = scale_of(slot);
            // Read before y is written: the compiler cannot know that they do not overlap.
            typename S::Floats minimum;
            if constexpr (Source::kHasMinimum) minimum = w.minimum(slot);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                float* to = sums_of<S, T>(y, slot, t);
                const auto factor = S::mul(scale, S::broadcast(x.of(t).factor));
                auto v = S::fma(S::to_floats(dot[t][slot]), factor, S::load_floats(to));
                if constexpr (Source::kHasMinimum) v = S::fma(minimum, S::broadcast(x.of(t).sum), v);
                S::store_floats(to, v);
            }
        }
    }
};

}  // namespace
}  // namespace edgellm
