// SPDX-License-Identifier: MIT
// The encoders, compiled once per instruction set. Each writes the blocks that native/formats describes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/list.h"
#include "quantize/k_search.h"
#include "quantize/quantize.h"
#include "quantize/search.h"

namespace edgellm {
namespace {

// Without importances the search of plain formats is narrow: they are chosen to be made fast.
constexpr int kSymmetricSteps = 3, kPlainSymmetricSteps = 1;
constexpr float kSymmetricStep = 0.04f, kPlainSymmetricStep = 0.05f;

const float* offset_or_null(const float* importance, size_t offset) {
    return importance == nullptr ? nullptr : importance + offset;
}

template <class Format>
EncodeStatus encode(const NumberEncoding&, const float* x, const float*, size_t n, uint8_t* out) {
    using Number = typename Format::Block;
    bool too_large = false;
    for (size_t i = 0; i < n; ++i) {
        const Number number = Format::round(x[i]);
        std::memcpy(out + i * sizeof(number), &number, sizeof(number));
        // The sign is not part of the mask.
        const Number magnitude = static_cast<Number>(number << 1) >> 1;
        too_large |= magnitude == Format::kExponentMask && is_finite(x[i]);
    }
    return too_large ? EncodeStatus::kTooLarge : EncodeStatus::kDone;
}

// Eight blocks of 32 at a time. encode(groups, x, n, blocks): encodes the first n lanes, which hold the
// values at x; returns false where a scale is too large.
template <class Block, bool kWeighted = true, class Encode>
EncodeStatus encode_blocks32(const float* x, const float* importance, size_t n_blocks, uint8_t* out,
                             Encode encode) {
    for (size_t start = 0; start < n_blocks; start += kLanes) {
        const size_t n = std::min(n_blocks - start, kLanes);
        Groups<32, kWeighted> groups;
        groups.read(x + 32 * start, offset_or_null(importance, 32 * start), n);
        if (!groups.finite()) return EncodeStatus::kNotFinite;
        Block blocks[kLanes];
        if (!encode(groups, x + 32 * start, n, blocks)) return EncodeStatus::kTooLarge;
        std::memcpy(out + start * sizeof(Block), blocks, n * sizeof(Block));
    }
    return EncodeStatus::kDone;
}

// Bit i: fifth bit of value i.
EDGELLM_INLINE void store_fifth_bits(const I32* codes, uint8_t* qh) {
    const U32 bits = (U32)(codes[0] >> 4 | codes[1] >> 4 << 8 | codes[2] >> 4 << 16 | codes[3] >> 4 << 24);
    uint32_t word = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) word |= bits[lane] << lane;
    std::memcpy(qh, &word, 4);
}

// Codes of a block of 32, eight to a vector. Byte i of qs holds those of values i and i + 16.
template <class Block>
EDGELLM_INLINE void store_codes32(const I32* codes, Block& block) {
    store_bytes(block.qs, (codes[0] & 15) | (codes[2] & 15) << 4);
    store_bytes(block.qs + 8, (codes[1] & 15) | (codes[3] & 15) << 4);
    if constexpr (requires { block.qh; }) store_fifth_bits(codes, block.qh);
}

// All integers that a format's codes can be, or its table of levels.
template <class Format>
auto levels_of() {
    if constexpr (!kHasLevels<Format>) {
        return Integers<-Format::kOffset, Format::Codes::kMax - Format::kOffset>{};
    } else {
        return TableLevels<Format>{};
    }
}

template <class Format, bool kWeighted>
EncodeStatus search_symmetric(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Block = typename Format::Block;
    using Levels = decltype(levels_of<Format>());
    const auto encode = [](const Groups<32, kWeighted>& g, const float* values, size_t n, Block* blocks) {
        const F32 found = kWeighted ? search_scale<Levels>(g, kSymmetricSteps, kSymmetricStep, 2)
                                    : search_scale<Levels>(g, kPlainSymmetricSteps, kPlainSymmetricStep, 0);
        const F32 d = round_to_half(found);
        for (size_t lane = 0; lane < n; ++lane) {
            if (!is_finite(d[lane])) return false;
            const F32 inverse = splat(d[lane] == 0 ? 0.0f : 1.0f / d[lane]);
            I32 codes[4];
            for (int i = 0; i < 4; ++i)
                codes[i] = Levels::code(load(values + 32 * lane + kLanes * i) * inverse);
            edgellm::store_half(blocks[lane].d, d[lane]);  // of one number (formats/floats.h)
            store_codes32(codes, blocks[lane]);
        }
        return true;
    };
    return encode_blocks32<Block, kWeighted>(x, importance, n_blocks, out, encode);
}

template <class Format>
EncodeStatus encode(const SymmetricEncoding&, const float* x, const float* importance, size_t n_blocks,
                    uint8_t* out) {
    return importance == nullptr ? search_symmetric<Format, false>(x, nullptr, n_blocks, out)
                                 : search_symmetric<Format, true>(x, importance, n_blocks, out);
}

template <class Format, bool kWeighted>
EncodeStatus search_offset(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Block = typename Format::Block;
    constexpr int top = Format::Codes::kMax;
    const auto encode = [](const Groups<32, kWeighted>& g, const float* values, size_t n, Block* blocks) {
        const Affine found = kWeighted ? search_affine<top, false>(g, -1, 1, 0.5f / top, 2)
                                       : search_affine<top, false>(g, 0, 0, 0.5f / top, 1);
        F32 d = round_to_half(found.d), m = round_to_half(found.b);
        F32 low = g.x[0];
        for (const F32& value : g.x) low = min(low, value);
        low = round_to_half(low);
        const F32 pinned =
            round_to_half(kWeighted ? search_range<top>(g, low, 2, 1.0f / top) : plain_range<top>(g, low));
        const I32 better = affine_error<top>(g, pinned, low) < affine_error<top>(g, d, m);
        d = select(better, pinned, d);
        m = select(better, low, m);
        for (size_t lane = 0; lane < n; ++lane) {
            if (!is_finite(d[lane]) || !is_finite(m[lane])) return false;
            const F32 inverse = splat(d[lane] == 0 ? 0.0f : 1.0f / d[lane]), offset = splat(m[lane]);
            I32 codes[4];
            for (int i = 0; i < 4; ++i) {
                const F32 above = load(values + 32 * lane + kLanes * i) - offset;
                codes[i] = nearest_int(clamp(nearest(above * inverse), 0, top));
            }
            edgellm::store_half(blocks[lane].d, d[lane]);
            edgellm::store_half(blocks[lane].m, m[lane]);
            store_codes32(codes, blocks[lane]);
        }
        return true;
    };
    return encode_blocks32<Block, kWeighted>(x, importance, n_blocks, out, encode);
}

template <class Format>
EncodeStatus encode(const AffineEncoding&, const float* x, const float* importance, size_t n_blocks,
                    uint8_t* out) {
    return importance == nullptr ? search_offset<Format, false>(x, nullptr, n_blocks, out)
                                 : search_offset<Format, true>(x, importance, n_blocks, out);
}

template <class Block>
EncodeStatus encode_nbits(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Levels = Integers<-Block::kHalf, Block::kHalf - 1>;
    const auto encode = [](const Groups<32>& g, const float* values, size_t n, Block* blocks) {
        const F32 found = search_scale<Levels>(g, kSymmetricSteps, kSymmetricStep, 2);
        // The bytes on either side of the root: with many bits a scale that is too small costs more.
        int8_t below[kLanes], above[kLanes];
        float low[kLanes], high[kLanes];
        for (size_t lane = 0; lane < kLanes; ++lane) {
            // Errors that were passed on may ask for more than a row's unit allows.
            const float root = std::min(128.0f * __builtin_sqrtf(__builtin_fabsf(found[lane])), 126.0f);
            if (!is_finite(root)) return false;
            const int d = static_cast<int>(root), sign = found[lane] < 0 ? -1 : 1;
            below[lane] = static_cast<int8_t>(sign * d);
            above[lane] = static_cast<int8_t>(sign * (d + 1));
            low[lane] = Block::scale_of(below[lane]);
            high[lane] = Block::scale_of(above[lane]);
        }
        const I32 higher = scaled_error<Levels>(g, load(high)) < scaled_error<Levels>(g, load(low));
        for (size_t lane = 0; lane < n; ++lane) {
            blocks[lane].d = higher[lane] ? above[lane] : below[lane];
            const float scale = blocks[lane].scale();
            const F32 inverse = splat(scale == 0 ? 0.0f : 1.0f / scale);
            for (int i = 0; i < 32; i += kLanes)
                store_bytes(blocks[lane].codes + i, Levels::code(load(values + 32 * lane + i) * inverse));
        }
        return true;
    };
    return encode_blocks32<Block>(x, importance, n_blocks, out, encode);
}

// The largest magnitude becomes 127. With 8 bits a search gains next to nothing.
template <class Format>
EncodeStatus encode(const ByteEncoding&, const float* x, const float*, size_t n_blocks, uint8_t* out) {
    using Block = typename Format::Block;
    for (size_t b = 0; b < n_blocks; ++b, x += 32, out += sizeof(Block)) {
        F32 values[4], most = splat(0.0f), bad = splat(0.0f);
        for (int i = 0; i < 4; ++i) {
            values[i] = load(x + i * kLanes);
            most = max(most, absolute(values[i]));
            bad += values[i] * 0.0f;
        }
        if (sum_lanes(bad) != 0) return EncodeStatus::kNotFinite;
        const float d = round_to_half(reduce_max(most) / 127);
        if (!is_finite(d)) return EncodeStatus::kTooLarge;
        Block block;
        edgellm::store_half(block.d, d);
        const F32 inverse = splat(d == 0 ? 0.0f : 1.0f / d);
        for (int i = 0; i < 4; ++i) {
            const F32 level = clamp(nearest(values[i] * inverse), -127, 127);
            store_bytes(reinterpret_cast<uint8_t*>(block.qs) + i * kLanes, nearest_int(level));
        }
        std::memcpy(out, &block, sizeof(block));
    }
    return EncodeStatus::kDone;
}

// A format's table of eight magnitudes in ascending order, and the same with a sign.
template <class Format>
struct SignedLevels {
    static constexpr const int8_t* kLevels = Format::kLevels;

    static EDGELLM_INLINE F32 magnitude(F32 x) {
        F32 found = splat(0.0f);
        for (int i = 1; i < 8; ++i) found = select(x > splat(border(i)), splat(kLevels[i]), found);
        return found;
    }
    static EDGELLM_INLINE I32 code(F32 x) {
        I32 found = {};
        for (int i = 1; i < 8; ++i) found -= absolute(x) > splat(border(i));
        return found | ((x < splat(0.0f)) & (found > 0) & 8);
    }

  private:
    // Between level i - 1 and level i.
    static constexpr float border(int i) { return 0.5f * static_cast<float>(kLevels[i - 1] + kLevels[i]); }
};

// The power of two of least error, among those that put the largest magnitude near the largest level.
template <class Format>
EncodeStatus encode(const ExponentEncoding&, const float* x, const float* importance, size_t n_blocks,
                    uint8_t* out) {
    using Block = typename Format::Block;
    using Levels = SignedLevels<Format>;
    const auto encode = [](const Groups<32>& g, const float* values, size_t n, Block* blocks) {
        F32 largest = splat(0.0f);
        for (const F32& value : g.x) largest = max(largest, absolute(value));
        const I32 exponents = (I32)largest >> 23;
        F32 best = splat(__FLT_MAX__);
        I32 chosen = splat_int(0);
        for (int change = -3; change <= 0; ++change) {
            I32 e = exponents + change;
            e = select(e < 0, splat_int(0), select(e > 254, splat_int(254), e));
            float scales[kLanes];
            for (size_t lane = 0; lane < kLanes; ++lane)
                scales[lane] = e8m0_half(static_cast<uint8_t>(e[lane]));
            const F32 scale = load(scales);
            F32 error = splat(0.0f);
            for (int i = 0; i < 32; ++i) {
                const F32 magnitude = absolute(g.x[i]);
                const F32 off = Levels::magnitude(magnitude / scale) * scale - magnitude;
                error += g.w[i] * off * off;
            }
            const I32 better = error < best;
            best = select(better, error, best);
            chosen = select(better, e, chosen);
        }
        for (size_t lane = 0; lane < n; ++lane) {
            blocks[lane].e = static_cast<uint8_t>(chosen[lane]);
            const F32 scale = splat(e8m0_half(blocks[lane].e));
            I32 codes[4];
            for (int i = 0; i < 4; ++i)
                codes[i] = Levels::code(load(values + 32 * lane + kLanes * i) / scale);
            store_codes32(codes, blocks[lane]);
        }
        return true;
    };
    return encode_blocks32<Block>(x, importance, n_blocks, out, encode);
}

// Group g's integer out of the batches of a search.
template <class Vectors>
int integer(const Vectors& vectors, int group) {
    return static_cast<int>(vectors[group / kLanes][group % kLanes]);
}

// One block of 256 after another.
template <class Format, class Search, bool kWeigh, class Encoding>
EncodeStatus encode_blocks256(const Encoding& encoding, const float* x, const float* importance,
                              size_t n_blocks, uint8_t* out) {
    for (size_t b = 0; b < n_blocks; ++b) {
        Search search;
        if (!search.read(x + 256 * b, offset_or_null(importance, 256 * b))) return EncodeStatus::kNotFinite;
        if constexpr (kWeigh) {
            if (importance == nullptr) search.weigh_by_magnitude();
        }
        search.search(encoding.tries, encoding.step);
        EncodedSuper found;
        found.d = search.d;
        found.dmin = 0.0f;
        for (int g = 0; g < 256 / encoding.values_per_scale; ++g) found.scale[g] = integer(search.scale, g);
        if constexpr (requires { search.minimum; }) {
            found.dmin = search.m;
            for (int g = 0; g < 256 / encoding.values_per_scale; ++g)
                found.minimum[g] = integer(search.minimum, g);
        }
        if (!is_finite(found.d) || !is_finite(found.dmin)) return EncodeStatus::kTooLarge;
        search.codes(x + 256 * b, found.codes);
        typename Format::Block block;
        std::memset(&block, 0, sizeof(block));
        Format::store(found, block);
        std::memcpy(out + b * sizeof(block), &block, sizeof(block));
    }
    return EncodeStatus::kDone;
}

template <class Format>
EncodeStatus encode(const AffineSuperEncoding&, const float* x, const float* importance, size_t n_blocks,
                    uint8_t* out) {
    constexpr AffineSuperEncoding kEncoding = Format::kEncoding;
    using Search = AffineBlock<kEncoding.values_per_scale, kEncoding.largest_code, kEncoding.largest_scale>;
    return encode_blocks256<Format, Search, kEncoding.by_magnitude>(kEncoding, x, importance, n_blocks, out);
}

template <class Format>
auto super_levels() {
    constexpr ScaledSuperEncoding kEncoding = Format::kEncoding;
    if constexpr (kEncoding.lowest_level == kEncoding.highest_level) {
        return TableLevels<Format>{};
    } else {
        return Integers<kEncoding.lowest_level, kEncoding.highest_level>{};
    }
}

template <class Format>
EncodeStatus encode(const ScaledSuperEncoding&, const float* x, const float* importance, size_t n_blocks,
                    uint8_t* out) {
    constexpr ScaledSuperEncoding kEncoding = Format::kEncoding;
    using Search = ScaledBlock<kEncoding.values_per_scale, decltype(super_levels<Format>()),
                               kEncoding.lowest_scale, kEncoding.highest_scale>;
    return encode_blocks256<Format, Search, false>(kEncoding, x, importance, n_blocks, out);
}

template <class Format>
EncodeStatus encode_format(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    return encode<Format>(Format::kEncoding, x, importance, n_blocks, out);
}

template <class Format>
constexpr bool kHasEncoding = requires { Format::kEncoding; };

// The formats with an encoding, and those of MatMulNBits.
template <class... Formats>
constexpr auto make_table(TypedList<Formats...>) {
    std::array<Encoder, (kHasEncoding<Formats> + ...) + NBitsBlocks::kSize> table{};
    size_t n = 0;
    const auto add = [&]<class Format>() {
        if constexpr (kHasEncoding<Format>) table[n++] = {Format::kType, encode_format<Format>};
    };
    (add.template operator()<Formats>(), ...);
    NBitsBlocks::for_each([&]<class Block>() { table[n++] = {Block::kType, encode_nbits<Block>}; });
    return table;
}

constexpr auto kTable = make_table(AllFormats{});

}  // namespace
}  // namespace edgellm
