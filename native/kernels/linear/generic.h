// SPDX-License-Identifier: MIT
// The body of the linear kernels, instantiated once per instruction set by a file that includes it.
// Everything has internal linkage, because those files are compiled with different flags.
//
// A set of primitives S works on one register at a time; 64 bytes (16 rows x 4 columns) are S::kParts
// registers.
//   Bytes       codes of kLanes rows x 4 columns        Ints, Floats   kLanes = 16 / kParts lanes
//   kSigned     signed codes are wanted as they are (else + 128, as unsigned)
//
// A tile is kPanels panels x T tokens over a run of blocks. Its sums y[panel][token][row] stay in memory (L1)
// and are read and written once per block:
//   y = fma(integer dot, d_w * d_x, y);  y = fma(m_w, sum_x, y)
// in ascending order of blocks: the same operations whatever the tile is, so results do not depend on the
// batch.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "kernels/linear/layout.h"

namespace edgellm {
namespace {

#define EDGELLM_INLINE [[gnu::always_inline]] inline
// A set whose registers are arrays (scalar) defines it empty.
#ifndef EDGELLM_UNROLL
#define EDGELLM_UNROLL _Pragma("GCC unroll 64")
#endif

constexpr size_t kChunkBlocks = 16;      // columns expanded at a time, in blocks of 32
constexpr size_t kPrefetchBytes = 1280;  // ahead of the block in work
constexpr size_t kMacroColumns = 4096;   // columns for which a block of tokens stays in L2
constexpr size_t kTokenBlockBytes = 192 << 10;

// Activations of a tile's first token at a block.
struct Activations {
    const int8_t* q;
    const float* scale;
    const float* sum;
    size_t n_in;

    Activations at(size_t token, size_t block) const {
        return {q + token * n_in + block * 32, scale + token * (n_in / 32) + block,
                sum + token * (n_in / 16) + block * 2, n_in};
    }
};

// Nothing read through y before this is known after it: keeps a tile's sums out of the registers that dots
// need.
EDGELLM_INLINE void keep_in_memory(float*& y) {
    __asm__ volatile("" : "+r"(y));
}

// ---- Quantizing activations ----

struct BlockScale {
    float scale, inverse;
};

// Of a block whose largest magnitude is given. Magnitudes too small to divide by count as zero.
inline BlockScale block_scale(float largest) {
    if (largest < 0x1p-100f) return {0.0f, 0.0f};
    return {largest / 127.0f, 127.0f / largest};
}

// sum: of the block's 32 codes; high: of the last 16.
inline void store_sums(const QuantRows& out, size_t n_in, size_t token, size_t block, float scale, int sum,
                       int high) {
    out.scale[token * (n_in / 32) + block] = scale;
    float* sums = out.sum16 + token * (n_in / 16) + 2 * block;
    sums[0] = scale * static_cast<float>(sum);
    sums[1] = scale * static_cast<float>(high);
}

// Levels of a format as unsigned bytes, `offset` added.
template <GGMLType type, int offset>
constexpr std::array<uint8_t, 16> level_table() {
    std::array<uint8_t, 16> table{};
    for (size_t i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(layout_of(type).levels[i] + offset);
    return table;
}

// ---- Packed panels, read register by register ----

template <class S, GGMLType type>
struct PackedSource {
    static constexpr Layout kLayout = layout_of(type);
    static constexpr size_t kBlockBytes = packed_block_bytes(kLayout);
    static constexpr size_t kHeaderBytes = header_bytes(kLayout.scales);
    static constexpr bool kPairs = kLayout.scales == Scales::kSuperPairs;
    static constexpr bool kSignedCodes = S::kSigned && kLayout.offset == 128;
    // Largest unsigned code.
    static constexpr int kMax = kLayout.offset == 128               ? 255
                                : kLayout.levels != nullptr         ? 2 * kLayout.offset
                                : kLayout.codes == Codes::kNibbles  ? 15
                                : kLayout.codes == Codes::kFiveBits ? 31
                                                                    : 63;
    static constexpr int kLanes = 16 / S::kParts;

    const uint8_t* header;
    const uint8_t* block;
    size_t index = 0;

    explicit PackedSource(const uint8_t* first) : header(first), block(first + kHeaderBytes) {}

    EDGELLM_INLINE void next() {
        block += kBlockBytes;
        if constexpr (kHeaderBytes > 0) {
            if (++index % 8 == 0) {
                header = block;
                block += kHeaderBytes;
            }
        }
    }

    EDGELLM_INLINE void prefetch() const {
        EDGELLM_UNROLL
        for (size_t i = 0; i < kBlockBytes; i += 64) __builtin_prefetch(block + kPrefetchBytes + i);
    }

    EDGELLM_INLINE typename S::Floats scale(int part) const {
        const int row = part * kLanes;
        if constexpr (kLayout.scales == Scales::kHalf || kLayout.scales == Scales::kHalfMin) {
            return S::load_halves(block + 2 * row);
        } else if constexpr (kLayout.scales == Scales::kE8M0) {
            return S::load_exponents(block + row);
        } else if constexpr (kLayout.scales == Scales::kSuperMin) {
            return S::mul(S::load_halves(header + 2 * row), S::load_u8(block + row));
        } else if constexpr (kLayout.scales == Scales::kSuper) {
            return S::mul(S::load_halves(header + 2 * row), S::load_i8(block + row));
        } else {
            static_assert(kLayout.scales == Scales::kSuperPairs);
            return S::load_halves(header + 2 * row);
        }
    }

    // m_w of the formula above.
    EDGELLM_INLINE typename S::Floats minimum(int part) const {
        const int row = part * kLanes;
        if constexpr (kLayout.scales == Scales::kHalfMin) {
            return S::load_halves(block + 32 + 2 * row);
        } else if constexpr (kLayout.scales == Scales::kSuperMin) {
            return S::negate(S::mul(S::load_halves(header + 32 + 2 * row), S::load_u8(block + 16 + row)));
        } else {
            return S::mul(scale(part), S::broadcast(-static_cast<float>(kLayout.offset)));
        }
    }

    // Of formats with a scale per 16 columns, for columns 16 half and up: the scale, and its integer factor
    // alone.
    EDGELLM_INLINE typename S::Floats pair_scale(int half, int part) const {
        return S::mul(scale(part), S::load_i8(block + 16 * half + part * kLanes));
    }
    EDGELLM_INLINE typename S::Bytes pair_words(int half, int part) const {
        return S::double_words(block + 16 * half + part * kLanes);
    }

    EDGELLM_INLINE typename S::Bytes codes(int group, int part) const {
        constexpr size_t kPartBytes = 64 / S::kParts;
        const uint8_t* data = block + scale_bytes(kLayout.scales) + static_cast<size_t>(part) * kPartBytes;
        if constexpr (kLayout.codes == Codes::kBytes) {
            const typename S::Bytes v = S::load(data + 64 * group);
            if constexpr (kSignedCodes) {
                return v;
            } else {
                return S::flip_sign(v);
            }
        } else {
            const typename S::Bytes v = S::load(data + 64 * (group % 4));
            const typename S::Bytes low = group < 4 ? S::low_nibbles(v) : S::high_nibbles(v);
            if constexpr (kLayout.levels != nullptr) {
                return S::template lookup<type, kSignedCodes ? 0 : kLayout.offset>(low);
            } else if constexpr (kLayout.codes == Codes::kFiveBits) {
                return S::or_bits(low, S::load(data + 256), 4 - group, 0x10);
            } else if constexpr (kLayout.codes == Codes::kSixBits) {
                return S::or_bits(low, S::load(data + 256 + 64 * (group / 4)), 4 - 2 * (group % 4), 0x30);
            } else {
                return low;
            }
        }
    }
};

// ---- Expanded chunks: what a tile reads when there are many tokens ----

// The offset of formats with a scale per 16 columns.
constexpr float kPairOffset = static_cast<float>(layout_of(GGMLType::Q6_K).offset);

// Unsigned codes, one per byte.
struct alignas(64) ByteBlock {
    uint8_t codes[8][64];
    float scale[16];
    float minimum[16];
};

// The same where 16 columns share a scale.
struct alignas(64) PairBlock : ByteBlock {
    float pair_scale[2][16];
    int16_t pair_words[2][32];  // each row's integer factor twice: a 32-bit lane is a row
};

// Signed integers of 16 bits; integer scales per 16 columns are multiplied in. Lane: columns (c, c + 2) of
// the group.
struct alignas(64) WordBlock {
    uint8_t codes[16][64];  // [2 group + odd]
    float scale[16];
    float minimum[16];       // of all 32 columns
    float minimum_high[16];  // what columns 16..31 have more
};

// Any format whose codes are at most kMaxCode.
template <class S, int kMaxCode, bool kHasPairs>
struct ByteSource {
    static constexpr bool kSignedCodes = false;
    static constexpr bool kPairs = kHasPairs;
    static constexpr int kMax = kMaxCode;
    static constexpr int kLanes = 16 / S::kParts;
    using Block = std::conditional_t<kPairs, PairBlock, ByteBlock>;

    const Block* block;

    EDGELLM_INLINE void next() { ++block; }
    EDGELLM_INLINE void prefetch() const {}
    EDGELLM_INLINE typename S::Floats scale(int part) const {
        return S::load_floats(block->scale + part * kLanes);
    }
    EDGELLM_INLINE typename S::Floats minimum(int part) const {
        return S::load_floats(block->minimum + part * kLanes);
    }
    EDGELLM_INLINE typename S::Bytes codes(int group, int part) const {
        return S::load(block->codes[group] + static_cast<size_t>(part) * (64 / S::kParts));
    }
    EDGELLM_INLINE typename S::Floats pair_scale(int half, int part) const {
        return S::load_floats(block->pair_scale[half] + part * kLanes);
    }
    EDGELLM_INLINE typename S::Bytes pair_words(int half, int part) const {
        return S::load(reinterpret_cast<const uint8_t*>(block->pair_words[half] + 2 * part * kLanes));
    }
};

template <class S, GGMLType type, class Block>
void expand_bytes(const uint8_t* panel, size_t first, size_t n_blocks, Block* out) {
    using Packed = PackedSource<S, type>;
    constexpr size_t kPartBytes = 64 / S::kParts;
    Packed source(panel + packed_bytes(Packed::kLayout, first));
    for (size_t b = 0; b < n_blocks; ++b) {
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            S::store_floats(out[b].scale + part * Packed::kLanes, source.scale(part));
            S::store_floats(out[b].minimum + part * Packed::kLanes, source.minimum(part));
            EDGELLM_UNROLL
            for (int group = 0; group < 8; ++group) {
                S::store(out[b].codes[group] + static_cast<size_t>(part) * kPartBytes,
                         source.codes(group, part));
            }
        }
        if constexpr (Packed::kPairs) {
            for (int half = 0; half < 2; ++half) {
                for (int part = 0; part < S::kParts; ++part) {
                    const int row = part * Packed::kLanes;
                    S::store_floats(out[b].pair_scale[half] + row, source.pair_scale(half, part));
                    S::store(reinterpret_cast<uint8_t*>(out[b].pair_words[half] + 2 * row),
                             source.pair_words(half, part));
                }
            }
        }
        source.next();
    }
}

template <class S, GGMLType type>
void expand_words(const uint8_t* panel, size_t first, size_t n_blocks, WordBlock* out) {
    constexpr Layout kLayout = layout_of(type);
    constexpr size_t kPartBytes = 64 / S::kParts;
    constexpr int kLanes = 16 / S::kParts;
    constexpr size_t kHeader = header_bytes(kLayout.scales);
    const uint8_t* block = panel + packed_bytes(kLayout, first);
    const uint8_t* header = block;
    for (size_t b = 0; b < n_blocks; ++b) {
        if (kHeader > 0 && b % 8 == 0) {
            header = block;
            block += kHeader;
        }
        const uint8_t* data = block + scale_bytes(kLayout.scales);
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            const int row = part * kLanes;
            if constexpr (kLayout.scales == Scales::kExpanded) {
                const auto dmin =
                    S::negate(S::load_floats(reinterpret_cast<const float*>(header) + 16 + row));
                const auto low = S::mul(dmin, S::load_u8(block + 32 + row));
                const auto high = S::mul(dmin, S::load_u8(block + 48 + row));
                S::store_floats(out[b].scale + row,
                                S::load_floats(reinterpret_cast<const float*>(header) + row));
                S::store_floats(out[b].minimum + row, low);
                S::store_floats(out[b].minimum_high + row, S::sub(high, low));
            } else if constexpr (kLayout.scales == Scales::kSuper) {
                S::store_floats(out[b].scale + row,
                                S::mul(S::load_halves(header + 2 * row), S::load_i8(block + row)));
            } else {
                S::store_floats(out[b].scale + row, S::load_halves(block + 2 * row));
            }
            EDGELLM_UNROLL
            for (int group = 0; group < 8; ++group) {
                typename S::Bytes v;
                if constexpr (kLayout.codes == Codes::kBytes) {
                    v = S::load(data + 64 * group + static_cast<size_t>(part) * kPartBytes);
                } else {
                    const auto raw =
                        S::load(data + 64 * (group % 4) + static_cast<size_t>(part) * kPartBytes);
                    v = S::template lookup<type, 0>(group < 4 ? S::low_nibbles(raw) : S::high_nibbles(raw));
                }
                typename S::Bytes even = S::even_words(v), odd = S::odd_words(v);
                if constexpr (kLayout.scales == Scales::kExpanded) {
                    const auto factor = S::double_words(block + group / 4 * 16 + row);
                    even = S::mul_words(even, factor);
                    odd = S::mul_words(odd, factor);
                }
                const size_t at = static_cast<size_t>(part) * kPartBytes;
                S::store(out[b].codes[2 * group] + at, even);
                S::store(out[b].codes[2 * group + 1] + at, odd);
            }
        }
        block += packed_block_bytes(kLayout);
    }
}

// Activations as words in the order of WordBlock: [token][block][even 8 lanes, odd 8 lanes].
struct alignas(64) WordActivations {
    int16_t q[kChunkBlocks][2][16];
};

template <class S>
void widen_activations(const int8_t* q, size_t n_blocks, WordActivations* out) {
    for (size_t b = 0; b < n_blocks; ++b) S::widen(q + 32 * b, out->q[b][0], out->q[b][1]);
}

// A run of word blocks against T tokens.
template <class S, bool kHasMin, int T>
void word_tile(const WordBlock* w, size_t n_blocks, const WordActivations* x, const Activations& a,
               float* y) {
    constexpr int kLanes = 16 / S::kParts;
    constexpr size_t kPartBytes = 64 / S::kParts;
    const float* scale = a.scale;
    const float* sum = a.sum;
    for (size_t b = 0; b < n_blocks; ++b, ++w, ++scale, sum += 2) {
        typename S::Ints dot[T][S::kParts];
        keep_in_memory(y);
        EDGELLM_UNROLL
        for (int k = 0; k < 16; ++k) {
            typename S::Bytes codes[S::kParts];
            EDGELLM_UNROLL
            for (int part = 0; part < S::kParts; ++part)
                codes[part] = S::load(w->codes[k] + static_cast<size_t>(part) * kPartBytes);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                const auto pair = S::broadcast_word(x[t].q[b][k % 2] + k / 2 * 2);
                EDGELLM_UNROLL
                for (int part = 0; part < S::kParts; ++part) {
                    dot[t][part] = S::pin(S::dot_words(k == 0 ? S::zero() : dot[t][part], codes[part], pair));
                }
            }
        }
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            const auto weight_scale = S::load_floats(w->scale + part * kLanes);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                float* to = y + t * 16 + part * kLanes;
                const size_t token = static_cast<size_t>(t);
                auto v = S::fma(S::to_floats(dot[t][part]),
                                S::mul(weight_scale, S::broadcast(scale[token * (a.n_in / 32)])),
                                S::load_floats(to));
                if constexpr (kHasMin) {
                    const float* s = sum + token * (a.n_in / 16);
                    v = S::fma(S::load_floats(w->minimum + part * kLanes), S::broadcast(s[0]), v);
                    v = S::fma(S::load_floats(w->minimum_high + part * kLanes), S::broadcast(s[1]), v);
                }
                S::store_floats(to, v);
            }
        }
    }
}

// ---- Float panels ----

template <class S, GGMLType type>
EDGELLM_INLINE typename S::Floats load_float_column(const uint8_t* data, int part) {
    constexpr int kLanes = 16 / S::kParts;
    if constexpr (type == GGMLType::F32) {
        return S::load_floats(reinterpret_cast<const float*>(data) + part * kLanes);
    } else if constexpr (type == GGMLType::F16) {
        return S::load_halves(data + 2 * part * kLanes);
    } else {
        return S::load_bfloats(data + 2 * part * kLanes);
    }
}

template <class S, GGMLType type, int T>
void float_tile(const uint8_t* w, size_t n_columns, const float* x, size_t ldx, float* y) {
    constexpr int kLanes = 16 / S::kParts;
    constexpr size_t kColumnBytes = type == GGMLType::F32 ? 64 : 32;
    typename S::Floats sum[T][S::kParts];
    EDGELLM_UNROLL
    for (int t = 0; t < T; ++t) {
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part)
            sum[t][part] = S::load_floats(y + t * 16 + part * kLanes);
    }
    for (size_t k = 0; k < n_columns; ++k, w += kColumnBytes) {
        if (k % (64 / kColumnBytes) == 0) __builtin_prefetch(w + kPrefetchBytes);
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            const auto column = load_float_column<S, type>(w, part);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                sum[t][part] =
                    S::fma(column, S::broadcast(x[static_cast<size_t>(t) * ldx + k]), sum[t][part]);
            }
        }
    }
    EDGELLM_UNROLL
    for (int t = 0; t < T; ++t) {
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part)
            S::store_floats(y + t * 16 + part * kLanes, sum[t][part]);
    }
}

// ---- The driver: which panels, columns and tokens meet when ----

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

// One matmul call's arguments.
struct Call {
    const PackedMatrix& m;
    size_t first, last;
    const QuantRows* xq;
    const float* x;
    size_t ldx, token0, n_tokens;
    float* y;
    size_t ldy;

    const uint8_t* panel(size_t p) const { return m.data + p * m.panel_stride; }
    Activations activations(size_t token, size_t block) const {
        const Activations all{xq->q, xq->scale, xq->sum16, m.n_in};
        return all.at(token0 + token, block);
    }

    // Sums of a tile from and to y, rows that exist only. Column 0 starts at zero.
    void load(size_t p, size_t token, size_t n, bool zero, float* tile) const {
        if (zero) {
            std::memset(tile, 0, n * kPanelRows * sizeof(float));
            return;
        }
        for (size_t t = 0; t < n; ++t)
            copy_row(p, tile + t * kPanelRows, y + (token + t) * ldy + (p - first) * kPanelRows);
    }
    void store(size_t p, size_t token, size_t n, const float* tile) const {
        for (size_t t = 0; t < n; ++t)
            copy_row(p, y + (token + t) * ldy + (p - first) * kPanelRows, tile + t * kPanelRows);
    }

  private:
    void copy_row(size_t p, float* to, const float* from) const {
        const size_t n = m.n_out - p * kPanelRows;
        if (n >= kPanelRows) {
            std::memcpy(to, from, kPanelRows * sizeof(float));
        } else {
            for (size_t i = 0; i < n; ++i) to[i] = from[i];
        }
    }
};

// Tokens that are multiplied while they lie in L2: a multiple of the tile.
inline size_t tokens_per_block(size_t columns, size_t tile) {
    const size_t bytes_per_token = columns + columns / 32 * 12;
    return std::max<size_t>(kTokenBlockBytes / bytes_per_token / tile, 4) * tile;
}

// Few tokens: panels are read as they are packed, once.
template <class E, GGMLType type>
void multiply_packed(const Call& c) {
    using S = typename E::Simd;
    alignas(64) float tile[E::PackedTiles::kLargest * kPanelRows];
    for (size_t p = c.first; p < c.last; ++p) {
        for (size_t t = 0; t < c.n_tokens;) {
            const size_t left = c.n_tokens - t;
            E::PackedTiles::pick(left, [&]<int T>() {
                std::fill_n(tile, T * kPanelRows, 0.0f);
                PackedSource<S, type> source(c.panel(p));
                E::template tile<T>(source, c.m.n_in / 32, c.activations(t, 0), tile);
                c.store(p, t, T, tile);
                t += T;
            });
        }
    }
}

// Many tokens: chunks of a panel are expanded and meet a block of tokens. `expand(panel, first, n)` fills the
// scratch, `run.operator()<T>(activations, n_blocks, tile)` multiplies it.
template <class E, class Expand, class Run>
EDGELLM_INLINE void multiply_expanded(const Call& c, const Expand& expand, const Run& run) {
    alignas(64) float tile[E::Tiles::kLargest * kPanelRows];
    const size_t n_blocks = c.m.n_in / 32;
    constexpr size_t kMacroBlocks = kMacroColumns / 32;
    for (size_t macro = 0; macro < n_blocks; macro += kMacroBlocks) {
        const size_t macro_end = std::min(n_blocks, macro + kMacroBlocks);
        const size_t step = tokens_per_block((macro_end - macro) * 32, E::Tiles::kLargest);
        for (size_t t0 = 0; t0 < c.n_tokens; t0 += step) {
            const size_t t_end = std::min(c.n_tokens, t0 + step);
            for (size_t p = c.first; p < c.last; ++p) {
                for (size_t b = macro; b < macro_end; b += kChunkBlocks) {
                    const size_t n = std::min(kChunkBlocks, macro_end - b);
                    expand(c.panel(p), b, n);
                    for (size_t t = t0; t < t_end;) {
                        E::Tiles::pick(t_end - t, [&]<int T>() {
                            c.load(p, t, T, b == 0, tile);
                            run.template operator()<T>(c.activations(t, b), n, tile);
                            c.store(p, t, T, tile);
                            t += T;
                        });
                    }
                }
            }
        }
    }
}

template <class E, GGMLType type>
void multiply_bytes(const Call& c) {
    using S = typename E::Simd;
    if (c.n_tokens <= E::kPackedLimit) return multiply_packed<E, type>(c);
    using Packed = PackedSource<S, type>;
    using Source = ByteSource<S, E::code_class(Packed::kMax), Packed::kPairs>;
    typename Source::Block scratch[kChunkBlocks];
    multiply_expanded<E>(
        c, [&](const uint8_t* panel, size_t b, size_t n) { expand_bytes<S, type>(panel, b, n, scratch); },
        [&]<int T>(const Activations& a, size_t n, float* tile) {
            E::template tile<T>(Source{scratch}, n, a, tile);
        });
}

template <class E, GGMLType type>
void multiply_words(const Call& c) {
    using S = typename E::Simd;
    if constexpr (layout_of(type).scales != Scales::kExpanded) {
        if (c.n_tokens <= E::kPackedLimit) return multiply_packed<E, type>(c);
    }
    WordBlock scratch[kChunkBlocks];
    WordActivations words[E::Tiles::kLargest];
    multiply_expanded<E>(
        c, [&](const uint8_t* panel, size_t b, size_t n) { expand_words<S, type>(panel, b, n, scratch); },
        [&]<int T>(const Activations& a, size_t n, float* tile) {
            for (int t = 0; t < T; ++t)
                widen_activations<S>(a.q + static_cast<size_t>(t) * a.n_in, n, words + t);
            word_tile<S, layout_of(type).scales == Scales::kExpanded, T>(scratch, n, words, a, tile);
        });
}

template <class E, GGMLType type>
void multiply_floats(const Call& c) {
    using S = typename E::Simd;
    constexpr size_t kColumnBytes = type == GGMLType::F32 ? 64 : 32;
    constexpr size_t kColumns = 512;
    alignas(64) float tile[E::Tiles::kLargest * kPanelRows];
    const size_t step = tokens_per_block(std::min<size_t>(c.m.n_in, kMacroColumns) * 4, E::Tiles::kLargest);
    for (size_t t0 = 0; t0 < c.n_tokens; t0 += step) {
        const size_t t_end = std::min(c.n_tokens, t0 + step);
        for (size_t p = c.first; p < c.last; ++p) {
            for (size_t k = 0; k < c.m.n_in; k += kColumns) {
                const size_t n = std::min(kColumns, c.m.n_in - k);
                for (size_t t = t0; t < t_end;) {
                    E::Tiles::pick(t_end - t, [&]<int T>() {
                        c.load(p, t, T, k == 0, tile);
                        float_tile<S, type, T>(c.panel(p) + k * kColumnBytes, n,
                                               c.x + (c.token0 + t) * c.ldx + k, c.ldx, tile);
                        c.store(p, t, T, tile);
                        t += T;
                    });
                }
            }
        }
    }
}

template <class E>
void matmul(const PackedMatrix& m, size_t first, size_t last, const QuantRows* xq, const float* x, size_t ldx,
            size_t token0, size_t n_tokens, float* y, size_t ldy) {
    const Call call{m, first, last, xq, x, ldx, token0, n_tokens, y, ldy};
    switch (m.type) {
#define EDGELLM_CASE(kind, type) \
    case GGMLType::type:         \
        return multiply_##kind<E, GGMLType::type>(call);
#define EDGELLM_SIGNED(type)                                \
    case GGMLType::type:                                    \
        if constexpr (E::Simd::kSigned) {                   \
            return multiply_words<E, GGMLType::type>(call); \
        } else {                                            \
            return multiply_bytes<E, GGMLType::type>(call); \
        }
        EDGELLM_CASE(floats, F32)
        EDGELLM_CASE(floats, F16)
        EDGELLM_CASE(floats, BF16)
        EDGELLM_CASE(bytes, Q4_0)
        EDGELLM_CASE(bytes, Q4_1)
        EDGELLM_CASE(bytes, Q5_0)
        EDGELLM_CASE(bytes, Q5_1)
        EDGELLM_CASE(bytes, Q4_K)
        EDGELLM_CASE(bytes, Q5_K)
        EDGELLM_CASE(bytes, Q6_K)
        EDGELLM_CASE(bytes, MXFP4)
        EDGELLM_SIGNED(Q8_0)
        EDGELLM_SIGNED(IQ4_NL)
        EDGELLM_SIGNED(IQ4_XS)
        EDGELLM_CASE(words, Q2_K)
        EDGELLM_CASE(words, Q3_K)
        EDGELLM_CASE(words, IQ1_S)
        EDGELLM_CASE(words, IQ1_M)
        EDGELLM_CASE(words, IQ2_XXS)
        EDGELLM_CASE(words, IQ2_XS)
        EDGELLM_CASE(words, IQ2_S)
        EDGELLM_CASE(words, IQ3_XXS)
        EDGELLM_CASE(words, IQ3_S)
        EDGELLM_CASE(words, TQ1_0)
        EDGELLM_CASE(words, TQ2_0)
#undef EDGELLM_CASE
#undef EDGELLM_SIGNED
    }
}

// ---- Engine for sets whose dot product of bytes goes straight to 32 bits ----

// `S::dot_bytes(sum, unsigned codes, four activations in each lane)` is exact.
template <class S, size_t kLimit, class PackedSizes, class Sizes>
struct WideEngine {
    using Simd = S;
    using PackedTiles = PackedSizes;
    using Tiles = Sizes;
    static constexpr size_t kPackedLimit = kLimit;  // up to so many tokens panels are read as they are packed

    // Formats of one class share their tiles.
    static constexpr int code_class(int) { return 255; }

    template <int T, class Source>
    static void tile(Source w, size_t n_blocks, Activations a, float* y) {
        [[maybe_unused]] constexpr int kLanes = 16 / S::kParts;
        for (size_t b = 0; b < n_blocks; ++b) {
            w.prefetch();
            keep_in_memory(y);
            if constexpr (Source::kPairs) {
                pair_block<T>(w, a, y);
            } else {
                typename S::Ints dot[T][S::kParts];
                dot_groups<T, 0, 8>(w, a, dot);
                EDGELLM_UNROLL
                for (int part = 0; part < S::kParts; ++part) {
                    const auto scale = w.scale(part);
                    const auto minimum = w.minimum(part);
                    EDGELLM_UNROLL
                    for (int t = 0; t < T; ++t) {
                        const size_t token = static_cast<size_t>(t);
                        float* to = y + t * 16 + part * kLanes;
                        const auto factor = S::mul(scale, S::broadcast(a.scale[token * (a.n_in / 32)]));
                        const auto v = S::fma(S::to_floats(dot[t][part]), factor, S::load_floats(to));
                        S::store_floats(to, S::fma(minimum, S::broadcast(a.sum[token * (a.n_in / 16)]), v));
                    }
                }
            }
            w.next();
            a.q += 32;
            a.scale += 1;
            a.sum += 2;
        }
    }

  private:
    template <int T, int kFirst, int kLast, class Source>
    EDGELLM_INLINE static void dot_groups(const Source& w, const Activations& a,
                                          typename S::Ints (*dot)[S::kParts]) {
        EDGELLM_UNROLL
        for (int group = kFirst; group < kLast; ++group) {
            typename S::Bytes codes[S::kParts];
            EDGELLM_UNROLL
            for (int part = 0; part < S::kParts; ++part) codes[part] = w.codes(group, part);
            EDGELLM_UNROLL
            for (int t = 0; t < T; ++t) {
                const auto x = S::broadcast_word(a.q + static_cast<size_t>(t) * a.n_in + 4 * group);
                EDGELLM_UNROLL
                for (int part = 0; part < S::kParts; ++part) {
                    dot[t][part] =
                        S::pin(S::dot_bytes(group == kFirst ? S::zero() : dot[t][part], codes[part], x));
                }
            }
        }
    }

    // A scale per 16 columns: two half blocks.
    template <int T, class Source>
    EDGELLM_INLINE static void pair_block(const Source& w, const Activations& a, float* y) {
        constexpr int kLanes = 16 / S::kParts;
        const auto offset = S::broadcast(-kPairOffset);
        EDGELLM_UNROLL
        for (int half = 0; half < 2; ++half) {
            typename S::Ints dot[T][S::kParts];
            if (half == 0) {
                dot_groups<T, 0, 4>(w, a, dot);
            } else {
                dot_groups<T, 4, 8>(w, a, dot);
            }
            EDGELLM_UNROLL
            for (int part = 0; part < S::kParts; ++part) {
                const auto scale = w.pair_scale(half, part);
                // sum[0] is of all 32 columns, sum[1] of the last 16.
                const auto minimum = S::mul(half == 0 ? scale : S::sub(scale, w.pair_scale(0, part)), offset);
                EDGELLM_UNROLL
                for (int t = 0; t < T; ++t) {
                    float* to = y + t * 16 + part * kLanes;
                    const size_t token = static_cast<size_t>(t);
                    const auto factor = S::mul(scale, S::broadcast(a.scale[token * (a.n_in / 32)]));
                    const float sum = a.sum[token * (a.n_in / 16) + static_cast<size_t>(half)];
                    const auto v = S::fma(S::to_floats(dot[t][part]), factor, S::load_floats(to));
                    S::store_floats(to, S::fma(minimum, S::broadcast(sum), v));
                }
            }
        }
    }
};

template <class E>
constexpr LinearKernels make_kernels() {
    return {describe_matrix, pack_panels, E::Simd::quantize_row, matmul<E>};
}

}  // namespace
}  // namespace edgellm
