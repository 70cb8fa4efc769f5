// SPDX-License-Identifier: MIT
// Chunks of panels for tiles of many tokens: expanded, or only their scales.
#pragma once

#include <bit>

#include "kernels/linear/packed.h"

namespace edgellm {
namespace {

// Codes, one per byte.
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
    float minimum_high[16];  // minimum of columns 16..31 less that of columns 0..15
};

// Scales times each mantissa that a factor of activations can have: a tile picks a product instead of
// multiplying. Products are exact, as scales have at most 19 bits.
constexpr size_t kMantissas = 1 << (kFactorBits - 1);
template <bool kPairs>
struct alignas(64) ScaleBlock {
    float scale[kPairs ? 2 : 1][kMantissas][16];
    float minimum[16];
};

// Offset of a factor's products in a ScaleBlock's scales, in floats.
EDGELLM_INLINE size_t mantissa_offset(float factor) {
    constexpr int kBits = kFactorBits - 1;
    return (std::bit_cast<uint32_t>(factor) >> (23 - kBits)) % kMantissas * 16;
}

// Properties that tiles of expanded blocks depend on. Formats that agree in them share their tiles.
struct ByteTraits {
    int max;  // largest code, or of its class (code_class of the engine)
    bool signed_codes, pairs, integer_pairs, centred, has_minimum;

    template <class Source>
    static constexpr ByteTraits of(int max) {
        return {max,
                Source::kSignedCodes,
                Source::kPairs,
                Source::kPairs && Source::kIntegerPairs,
                Source::kCentred,
                Source::kHasMinimum};
    }
};

// kPanels panels in turn, kChunkBlocks blocks each.
template <class S, ByteTraits kTraits, int kPanels>
struct ByteSource {
    static constexpr bool kSignedCodes = kTraits.signed_codes;
    static constexpr bool kPairs = kTraits.pairs;
    static constexpr bool kIntegerPairs = kTraits.integer_pairs;
    static constexpr bool kIntegers = false;
    static constexpr bool kCentred = kTraits.centred;
    static constexpr bool kHasMinimum = kTraits.has_minimum;
    static constexpr int kMax = kTraits.max;
    static constexpr int kSlots = kPanels * S::kParts;
    using Block = std::conditional_t<kPairs, PairBlock, ByteBlock>;

    const Block* block;
    int shift;  // of the accumulator's start

    EDGELLM_INLINE void next() { ++block; }
    EDGELLM_INLINE void prefetch(int) const {}
    EDGELLM_INLINE const Block& of(int slot) const {
        return block[static_cast<size_t>(slot / S::kParts) * kChunkBlocks<int8_t>];
    }
    EDGELLM_INLINE static int row(int slot) { return slot % S::kParts * (16 / S::kParts); }

    EDGELLM_INLINE typename S::Floats scale(int slot) const {
        return S::load_floats(of(slot).scale + row(slot));
    }
    EDGELLM_INLINE typename S::Floats minimum(int slot) const {
        return S::load_floats(of(slot).minimum + row(slot));
    }
    EDGELLM_INLINE typename S::Bytes codes(int group, int slot) const {
        return S::load(of(slot).codes[group] + 4 * row(slot));
    }
    EDGELLM_INLINE typename S::Floats pair_scale(int half, int slot) const {
        return S::load_floats(of(slot).pair_scale[half] + row(slot));
    }
    EDGELLM_INLINE typename S::Bytes pair_words(int half, int slot) const {
        return S::load(reinterpret_cast<const uint8_t*>(of(slot).pair_words[half] + 2 * row(slot)));
    }
};

template <class S, class Source, class Block>
void expand_bytes(Source source, size_t n_blocks, Block* out) {
    constexpr size_t kPartBytes = 64 / S::kParts;
    source.fetch_into_l2 = false;
    for (size_t b = 0; b < n_blocks; ++b) {
        EDGELLM_UNROLL
        for (int group = 0; group < 8; ++group) source.prefetch(group);
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            if constexpr (!Source::kPairs)
                S::store_floats(out[b].scale + part * Source::kLanes, source.scale(part));
            if constexpr (Source::kHasMinimum)
                S::store_floats(out[b].minimum + part * Source::kLanes, source.minimum(part));
            EDGELLM_UNROLL
            for (int group = 0; group < 8; ++group) {
                S::store(out[b].codes[group] + static_cast<size_t>(part) * kPartBytes,
                         source.codes(group, part));
            }
        }
        if constexpr (Source::kPairs) {
            for (int half = 0; half < 2; ++half) {
                for (int part = 0; part < S::kParts; ++part) {
                    const int row = part * Source::kLanes;
                    S::store_floats(out[b].pair_scale[half] + row, source.pair_scale(half, part));
                    if constexpr (Source::kIntegerPairs) {
                        S::store_floats(out[b].scale + row, source.scale(part));
                        S::store(reinterpret_cast<uint8_t*>(out[b].pair_words[half] + 2 * row),
                                 source.pair_words(half, part));
                    }
                }
            }
        }
        source.next();
    }
}

template <class S, class Source>
void table_scales(Source source, size_t n_blocks, ScaleBlock<Source::kPairs>* out) {
    static_assert(S::kParts == 1);
    for (size_t b = 0; b < n_blocks; ++b, source.next()) {
        EDGELLM_UNROLL
        for (int half = 0; half < (Source::kPairs ? 2 : 1); ++half) {
            const auto scale = [&] {
                if constexpr (Source::kPairs) {
                    return source.pair_scale(half, 0);
                } else {
                    return source.scale(0);
                }
            }();
            EDGELLM_UNROLL
            for (size_t i = 0; i < kMantissas; ++i) {
                const float mantissa = 1.0f + static_cast<float>(i) / kMantissas;
                S::store_floats(out[b].scale[half][i], S::mul(scale, S::broadcast(mantissa)));
            }
        }
        if constexpr (Source::kHasMinimum) S::store_floats(out[b].minimum, source.minimum(0));
    }
}

template <class S, class Source>
void expand_words(Source source, size_t n_blocks, WordBlock* out) {
    constexpr size_t kPartBytes = 64 / S::kParts;
    source.fetch_into_l2 = false;
    for (size_t b = 0; b < n_blocks; ++b) {
        EDGELLM_UNROLL
        for (int group = 0; group < 8; ++group) source.prefetch(group);
        EDGELLM_UNROLL
        for (int part = 0; part < S::kParts; ++part) {
            const int row = part * Source::kLanes;
            S::store_floats(out[b].scale + row, source.scale(part));
            if constexpr (Source::kHalfMinimums) {
                const auto low = source.half_minimum(0, part), high = source.half_minimum(1, part);
                S::store_floats(out[b].minimum + row, low);
                S::store_floats(out[b].minimum_high + row, S::sub(high, low));
            }
            EDGELLM_UNROLL
            for (int group = 0; group < 8; ++group) {
                const typename S::Bytes v = source.codes(group, part);
                typename S::Bytes even = S::even_words(v), odd = S::odd_words(v);
                if constexpr (Source::kIntegers) {
                    const auto factor = source.pair_words(group / 4, part);
                    even = S::mul_words(even, factor);
                    odd = S::mul_words(odd, factor);
                }
                const size_t at = static_cast<size_t>(part) * kPartBytes;
                S::store(out[b].codes[2 * group] + at, even);
                S::store(out[b].codes[2 * group + 1] + at, odd);
            }
        }
        source.next();
    }
}

}  // namespace
}  // namespace edgellm
