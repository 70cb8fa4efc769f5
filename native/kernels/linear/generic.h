// SPDX-License-Identifier: MIT
// Driver of the linear kernels: the order of panels, columns and tokens. An engine E of one instruction set
// has the tiles. Everything has internal linkage; see common.h.
#pragma once

#include "kernels/linear/engine.h"
#include "kernels/linear/parts.h"
#include "kernels/linear/tiles.h"
#if defined(EDGELLM_SIMD_TEST)
#include "kernels/linear/simd_test.h"
#endif

namespace edgellm {
namespace {

constexpr size_t kGroupPanels = 16;  // panels that multiply a chunk of activations while it is in L2

struct Call : MatmulTask {
    const uint8_t* panel(size_t p) const { return m.data + p * m.panel_stride; }  // of floats
    BlockRows rows(size_t token, size_t block) const { return {*xq, token0 + token, block}; }
    // Tokens from this one on that are in one group of rows.
    size_t group_tokens(size_t token) const {
        return std::min(n_tokens - token, kBlockTokens - (token0 + token) % kBlockTokens);
    }

    // Sums of a tile of T tokens from and to y, only of rows that exist. Column 0 starts at zero. The copies
    // use registers as wide as the tile's own: the tile reads them at once, and a wide load waits for
    // narrower stores.
    template <class S, int T>
    EDGELLM_INLINE void load(size_t p, size_t token, bool zero, float* tile) const {
        if (zero) {
            EDGELLM_UNROLL
            for (int i = 0; i < T * S::kParts; ++i)
                S::store_floats(tile + i * (16 / S::kParts), S::broadcast(0.0f));
            return;
        }
        for (size_t t = 0; t < T; ++t)
            copy_row<S>(p, tile + t * kPanelRows, y + (token + t) * ldy + (p - first) * kPanelRows);
    }
    // Multiplies complete sums by the units of their tokens.
    template <class S, int T>
    EDGELLM_INLINE void scale(size_t token, float* tile) const {
        EDGELLM_UNROLL
        for (int t = 0; t < T; ++t) {
            const auto unit = S::broadcast(xq->unit[token0 + token + static_cast<size_t>(t)]);
            EDGELLM_UNROLL
            for (int part = 0; part < S::kParts; ++part) {
                float* to = sums_of<S, T>(tile, part, t);
                S::store_floats(to, S::mul(S::load_floats(to), unit));
            }
        }
    }
    template <class S, int T>
    EDGELLM_INLINE void store(size_t p, size_t token, const float* tile) const {
        for (size_t t = 0; t < T; ++t)
            copy_row<S>(p, y + (token + t) * ldy + (p - first) * kPanelRows, tile + t * kPanelRows);
    }

  private:
    template <class S>
    EDGELLM_INLINE void copy_row(size_t p, float* to, const float* from) const {
        const size_t n = m.n_out - p * kPanelRows;
        if (n >= kPanelRows) {
            EDGELLM_UNROLL
            for (size_t i = 0; i < kPanelRows; i += 16 / S::kParts)
                S::store_floats(to + i, S::load_floats(from + i));
        } else {
            for (size_t i = 0; i < n; ++i) to[i] = from[i];
        }
    }
};

// Few tokens: panels are read as they are packed, in order.
template <class E, class Source>
    requires ByteEngine<E, Source, BlockRows>
void multiply_packed(const Call& c) {
    using S = typename E::Simd;
    alignas(64) float tile[E::PackedTiles::kLargest * kPanelRows];
    for (size_t t0 = 0, t_end; t0 < c.n_tokens; t0 = t_end) {
        t_end = t0 + c.group_tokens(t0);
        for (size_t p = c.first; p < c.last; ++p) {
            for (size_t t = t0; t < t_end;) {
                E::PackedTiles::pick(t_end - t, [&]<int T>() {
                    c.template load<S, T>(p, t, true, tile);
                    E::template tile<T>(Source(c.m, p, 0), c.m.n_in / 32, c.rows(t, 0), tile);
                    c.template scale<S, T>(t, tile);
                    c.template store<S, T>(p, t, tile);
                    t += T;
                });
            }
        }
    }
}

// Blocks of a chunk: at most kMost, whole headers, all chunks nearly equal.
template <class Source, size_t kMost>
size_t chunk_blocks(size_t n_blocks) {
    static_assert(kMost % kHeaderBlocks == 0);
    const size_t n_chunks = (n_blocks + kMost - 1) / kMost;
    constexpr size_t unit = Source::kHeaderBytes > 0 ? kHeaderBlocks : 1;
    return (n_blocks + n_chunks * unit - 1) / (n_chunks * unit) * unit;
}

// Many tokens: a chunk of columns of some panels is expanded into L1 and multiplies the tokens' chunk in L2.
//   rows_of(token, n_tokens, first block, n_blocks) gives rows(token among them)
//   expand(source, n_blocks, index in tile)
//   run.operator()<T, panels>(n_blocks, rows of a tile, sums)
template <class E, class Source, class Code, class RowsOf, class Expand, class Run>
EDGELLM_INLINE void multiply_expanded(const Call& c, const RowsOf& rows_of, const Expand& expand,
                                      const Run& run) {
    using S = typename E::Simd;
    constexpr size_t kTilePanels = E::kTilePanels;
    alignas(64) float sums[kTilePanels * E::Tiles::kLargest * kPanelRows];
    const size_t n_blocks = c.m.n_in / 32;
    const size_t step = chunk_blocks<Source, kChunkBlocks<Code>>(n_blocks);
    for (size_t t0 = 0, n_tokens; t0 < c.n_tokens; t0 += n_tokens) {
        n_tokens = c.group_tokens(t0);
        for (size_t p0 = c.first; p0 < c.last; p0 += kGroupPanels) {
            const size_t p_end = std::min(c.last, p0 + kGroupPanels);
            for (size_t b = 0; b < n_blocks; b += step) {
                const size_t n = std::min(step, n_blocks - b);
                const bool is_last = b + n == n_blocks;
                const auto rows = rows_of(t0, n_tokens, b, n);
                const auto multiply = [&]<int kPanels>(size_t p) {
                    for (size_t k = 0; k < kPanels; ++k) expand(Source(c.m, p + k, b), n, k);
                    for (size_t t = 0; t < n_tokens;) {
                        E::Tiles::pick(n_tokens - t, [&]<int T>() {
                            constexpr size_t kStride = T * kPanelRows;
                            for (size_t k = 0; k < kPanels; ++k)
                                c.template load<S, T>(p + k, t0 + t, b == 0, sums + k * kStride);
                            run.template operator()<T, kPanels>(n, rows(t), sums);
                            for (size_t k = 0; k < kPanels; ++k) {
                                if (is_last) c.template scale<S, T>(t0 + t, sums + k * kStride);
                                c.template store<S, T>(p + k, t0 + t, sums + k * kStride);
                            }
                            t += T;
                        });
                    }
                };
                size_t p = p0;
                for (; p + kTilePanels <= p_end; p += kTilePanels)
                    multiply.template operator()<kTilePanels>(p);
                for (; p < p_end; ++p) multiply.template operator()<1>(p);
            }
        }
    }
}

// Many tokens: panels are read as they are packed, their scales from tables in L1.
template <class E, class Source>
    requires TabledEngine<E, Source, ScaleBlock<Source::kPairs>, BlockRows>
void multiply_tabled(const Call& c) {
    using S = typename E::Simd;
    constexpr size_t kMostBlocks = kTableBlocks / (Source::kPairs ? 2 : 1);
    ScaleBlock<Source::kPairs> table[kMostBlocks];
    alignas(64) float sums[E::Tiles::kLargest * kPanelRows];
    const size_t n_blocks = c.m.n_in / 32, step = chunk_blocks<Source, kMostBlocks>(n_blocks);
    // Long rows of activations are not in L2 as a whole.
    const size_t n_panels = n_blocks > kL2Blocks ? kGroupPanels : 1;
    // Chunk b of panel p times tokens t0 and up. Meanwhile the lines of `next` are fetched into L2.
    const auto multiply = [&](size_t p, size_t b, size_t n, size_t t0, size_t n_tokens, const Source& next) {
        const Source source(c.m, p, b);
        const bool is_whole = (p + 1) * kPanelRows <= c.m.n_out, is_last = b + n == n_blocks;
        const size_t n_lines = packed_bytes<typename Source::Format>(n) / 64;
        table_scales<S>(source, n, table);
        for (size_t t = t0, line = 0; t < t0 + n_tokens;) {
            E::Tiles::pick(t0 + n_tokens - t, [&]<int T>() {
                const float* unit = is_last ? c.xq->unit + c.token0 + t : nullptr;
                if (is_whole) {
                    E::template tabled_tile<T>(source, table, n, c.rows(t, b), b == 0, unit,
                                               c.y + t * c.ldy + (p - c.first) * kPanelRows, c.ldy);
                } else {
                    c.template load<S, T>(p, t, b == 0, sums);
                    E::template tabled_tile<T>(source, table, n, c.rows(t, b), false, unit, sums, kPanelRows);
                    c.template store<S, T>(p, t, sums);
                }
                t += T;
            });
            for (; line < n_lines * (t - t0) / n_tokens; ++line)
                __builtin_prefetch(next.header + 64 * line, 0, 2);
        }
    };
    for (size_t t0 = 0, n_tokens; t0 < c.n_tokens; t0 += n_tokens) {
        n_tokens = c.group_tokens(t0);
        for (size_t p0 = c.first, p_end; p0 < c.last; p0 = p_end) {
            p_end = std::min(c.last, p0 + n_panels);
            for (size_t b = 0, n; b < n_blocks; b += n) {
                n = std::min(step, n_blocks - b);
                const Source next_chunk = b + n < n_blocks ? Source(c.m, p0, b + n) : Source(c.m, p_end, 0);
                for (size_t p = p0; p < p_end; ++p)
                    multiply(p, b, n, t0, n_tokens, p + 1 < p_end ? Source(c.m, p + 1, b) : next_chunk);
            }
        }
    }
}

template <class E, class Source>
    requires ByteEngine<E, Source, BlockRows>
void multiply_bytes(const Call& c) {
    using S = typename E::Simd;
    if (c.n_tokens <= E::packed_limit()) return multiply_packed<E, Source>(c);
    if constexpr (S::kParts == 1) {
        if (S::tables_scales()) return multiply_tabled<E, Source>(c);
    }
    constexpr ByteTraits kTraits = ByteTraits::of<Source>(E::code_class(Source::kMax));
    using Block = std::conditional_t<Source::kPairs, PairBlock, ByteBlock>;
    Block scratch[E::kTilePanels * kChunkBlocks<int8_t>];
    multiply_expanded<E, Source, int8_t>(
        c,
        [&c](size_t t0, size_t, size_t b, size_t) {
            return [&c, t0, b](size_t t) { return c.rows(t0 + t, b); };
        },
        [&](const Source& source, size_t n, size_t k) {
            expand_bytes<S>(source, n, scratch + k * kChunkBlocks<int8_t>);
        },
        [&]<int T, int kPanels>(size_t n, const BlockRows& rows, float* sums) {
            using Expanded = ByteSource<S, kTraits, kPanels>;
            E::template tile<T>(Expanded{scratch, Source::shift}, n, rows, sums);
        });
}

template <class E, class Source>
void multiply_words(const Call& c) {
    using S = typename E::Simd;
    static_assert(SimdWordDots<S>);
    constexpr bool kHasMin = Source::kHalfMinimums;
    if constexpr (!Source::kIntegers) {
        if (c.n_tokens <= E::packed_limit()) return multiply_packed<E, Source>(c);
    }
    WordBlock scratch[E::kTilePanels * kChunkBlocks<int16_t>];
    WordChunk chunk;
    multiply_expanded<E, Source, int16_t>(
        c,
        [&](size_t t0, size_t n_tokens, size_t b, size_t n) {
            widen_rows<S>(c.rows(t0, b), n_tokens, n, &chunk);
            return [&chunk](size_t t) { return WordRows(chunk, t); };
        },
        [&](const Source& source, size_t n, size_t k) {
            expand_words<S>(source, n, scratch + k * kChunkBlocks<int16_t>);
        },
        [&]<int T, int kPanels>(size_t n, const WordRows& rows, float* sums) {
            word_tile<S, kHasMin, kPanels, T>(scratch, n, rows, sums);
        });
}

template <FloatEngine E, class F>
void multiply_floats(const Call& c) {
    using S = typename E::Simd;
    constexpr size_t kColumns = 256;
    constexpr size_t kLargest = E::Tiles::kLargest;
    alignas(64) float sums[kLargest * kPanelRows];
    alignas(64) float scratch[kColumns * kPanelRows];
    constexpr bool kIsWide = std::is_same_v<F, formats::F32>;
    const bool widen = !kIsWide && c.n_tokens > kLargest;
    for (size_t t0 = 0; t0 < c.n_tokens; t0 += kBlockTokens) {
        const size_t t_end = std::min(c.n_tokens, t0 + kBlockTokens);
        for (size_t p = c.first; p < c.last; ++p) {
            for (size_t k = 0; k < c.m.n_in; k += kColumns) {
                const size_t n = std::min(kColumns, c.m.n_in - k);
                const uint8_t* columns = c.panel(p) + k * kColumnBytes<F>;
                if (widen) widen_columns<S, F>(columns, n, scratch);
                for (size_t t = t0; t < t_end;) {
                    E::Tiles::pick(t_end - t, [&]<int T>() {
                        const float* x = c.x + (c.token0 + t) * c.ldx + k;
                        c.template load<S, T>(p, t, k == 0, sums);
                        if (widen) {
                            const auto* wide = reinterpret_cast<const uint8_t*>(scratch);
                            float_tile<S, formats::F32, T>(wide, n, x, c.ldx, sums);
                        } else {
                            float_tile<S, F, T>(columns, n, x, c.ldx, sums);
                        }
                        c.template store<S, T>(p, t, sums);
                        t += T;
                    });
                }
            }
        }
    }
}

// An engine with an order of panels, columns and tokens of its own.
template <class E, class Source>
concept OrdersItself = requires(const Call& c) { E::template multiply<Source>(c); };

template <class E, class Source, KernelKind kKind>
void multiply_codes(const Call& c) {
    // Codes of 8 bits are words where dots of bytes have no room for them.
    constexpr bool kAsWords =
        kKind == KernelKind::kWords || (kKind == KernelKind::kWide && !E::Simd::kWideDots);
    if constexpr (OrdersItself<E, Source>) {
        E::template multiply<Source>(c);
    } else if constexpr (kAsWords) {
        multiply_words<E, Source>(c);
    } else {
        multiply_bytes<E, Source>(c);
    }
}

template <class E, class F>
constexpr bool reads_levels() {
    if constexpr (kernel_kind<F>() == KernelKind::kWords && LevelEngine<E>) {
        return largest_level<F>() <= E::kLargestLevel;
    } else {
        return false;
    }
}

template <class E, class F>
void multiply(const MatmulTask& task) {
    constexpr KernelKind kKind = kernel_kind<F>();
    using S = typename E::Simd;
    if constexpr (kKind == KernelKind::kFloats) {
        multiply_floats<E, F>(Call{task});
    } else if constexpr (reads_levels<E, F>()) {
        multiply_packed<E, PackedSource<S, UnsignedLevels<F>>>(Call{task});
    } else {
        multiply_codes<E, PackedSource<S, F>, kKind>(Call{task});
    }
}

template <class E>
void multiply_split(const MatmulTask& task) {
    multiply_codes<E, SplitSource<typename E::Simd>, KernelKind::kWide>(Call{task});
}

template <class E>
void approximate(const MatmulTask& task) {
    multiply_codes<E, UpperSource<typename E::Simd>, KernelKind::kBytes>(Call{task});
}

template <class E, size_t kPart>
constexpr LinearPart make_part() {
    static_assert(LinearSimd<typename E::Simd>);
    LinearPart part;
    AllFormats::for_each([&]<class F>() {
        if constexpr (linear_part<F>() == kPart) part.matmul[static_cast<size_t>(F::kType)] = multiply<E, F>;
    });
    if constexpr (kPart == kWidePart) part.split = multiply_split<E>;
    if constexpr (kPart == kMinimumsPart) part.approximate = approximate<E>;
    return part;
}

// EDGELLM_LINEAR_KERNELS(Avx2, engine) defines the part of kLinearAvx2 that this compilation is for; part 0
// also has the rest. For simd_test.cc it defines the test of the engine's vocabulary.
#define EDGELLM_JOIN_TOKENS(a, b) a##b
#define EDGELLM_JOIN(a, b) EDGELLM_JOIN_TOKENS(a, b)
#define EDGELLM_DEFINE_PART(set, ...)                                                  \
    extern const LinearPart EDGELLM_JOIN(kLinear##set##Part, EDGELLM_LINEAR_PART);     \
    constinit const LinearPart EDGELLM_JOIN(kLinear##set##Part, EDGELLM_LINEAR_PART) = \
        make_part<__VA_ARGS__, EDGELLM_LINEAR_PART>();
#if defined(EDGELLM_SIMD_TEST)
#define EDGELLM_LINEAR_KERNELS(set, ...)                         \
    int count_simd_failures##set();                              \
    int count_simd_failures##set() {                             \
        return SimdTest<typename __VA_ARGS__::Simd>(#set).run(); \
    }
#elif EDGELLM_LINEAR_PART == 0
#define EDGELLM_LINEAR_KERNELS(set, ...)                                                   \
    EDGELLM_DEFINE_PART(set, __VA_ARGS__)                                                  \
    extern const LinearPart kLinear##set##Part1, kLinear##set##Part2, kLinear##set##Part3; \
    extern const LinearKernels kLinear##set;                                               \
    constinit const LinearKernels kLinear##set = {                                         \
        describe_matrix,                                                                   \
        pack_panels,                                                                       \
        quantize_row<typename __VA_ARGS__::Simd>,                                          \
        {&kLinear##set##Part0, &kLinear##set##Part1, &kLinear##set##Part2, &kLinear##set##Part3}};
#else
#define EDGELLM_LINEAR_KERNELS(set, ...) EDGELLM_DEFINE_PART(set, __VA_ARGS__)
#endif

}  // namespace
}  // namespace edgellm
