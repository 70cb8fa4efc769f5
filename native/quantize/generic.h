// SPDX-License-Identifier: MIT
// The encoders, compiled once per instruction set. Each writes the blocks that native/formats describes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/block32.h"
#include "formats/iq4_xs.h"
#include "formats/k_quants.h"
#include "quantize/k_search.h"
#include "quantize/quantize.h"
#include "quantize/search.h"

namespace edgellm {
namespace {

void store_half(uint8_t* bytes, float value) {
    const uint16_t half = float_to_half(value);
    std::memcpy(bytes, &half, 2);
}

// Without importances the plain formats are searched less widely: they are chosen to be made fast.
constexpr int kSymmetricSteps = 3, kPlainSymmetricSteps = 1;
constexpr float kSymmetricStep = 0.04f, kPlainSymmetricStep = 0.05f;

const float* offset_or_null(const float* importance, size_t offset) {
    return importance == nullptr ? nullptr : importance + offset;
}

EncodeStatus encode_f32(const float* x, const float*, size_t n, uint8_t* out) {
    std::memcpy(out, x, n * 4);
    return EncodeStatus::kDone;
}

EncodeStatus encode_f16(const float* x, const float*, size_t n, uint8_t* out) {
    bool too_large = false;
    for (size_t i = 0; i < n; ++i) {
        const uint16_t half = float_to_half(x[i]);
        std::memcpy(out + 2 * i, &half, 2);
        too_large |= (half & 0x7fff) == 0x7c00 && is_finite(x[i]);
    }
    return too_large ? EncodeStatus::kTooLarge : EncodeStatus::kDone;
}

EncodeStatus encode_bf16(const float* x, const float*, size_t n, uint8_t* out) {
    bool too_large = false;
    for (size_t i = 0; i < n; ++i) {
        const uint16_t half = float_to_bf16(x[i]);
        std::memcpy(out + 2 * i, &half, 2);
        too_large |= (half & 0x7fff) == 0x7f80 && is_finite(x[i]);
    }
    return too_large ? EncodeStatus::kTooLarge : EncodeStatus::kDone;
}

// Codes of 32 values; those above 15 have a fifth bit.
void pack_codes(const uint8_t* codes, uint8_t* qs, uint8_t* qh = nullptr) {
    for (int i = 0; i < 16; ++i) qs[i] = static_cast<uint8_t>((codes[i] & 15) | codes[i + 16] << 4);
    if (qh == nullptr) return;
    std::memset(qh, 0, 4);
    for (int i = 0; i < 32; ++i) qh[i / 8] |= static_cast<uint8_t>((codes[i] >> 4) << i % 8);
}

// Eight blocks of 32 at a time. encode(groups, x, n, blocks): encodes the first n lanes, which hold the
// values at x; returns false where a scale is too large.
template <class Block, bool kWeighted = true, class Encode>
EncodeStatus encode_blocks32(const float* x, const float* importance, size_t n_blocks, uint8_t* out,
                             Encode encode) {
    for (size_t start = 0; start < n_blocks; start += kLanes) {
        const int n = n_blocks - start < kLanes ? static_cast<int>(n_blocks - start) : kLanes;
        Groups<32, kWeighted> groups;
        groups.read(x + 32 * start, offset_or_null(importance, 32 * start), n);
        if (!groups.finite()) return EncodeStatus::kNotFinite;
        Block blocks[kLanes];
        if (!encode(groups, x + 32 * start, n, blocks)) return EncodeStatus::kTooLarge;
        std::memcpy(out + start * sizeof(Block), blocks, n * sizeof(Block));
    }
    return EncodeStatus::kDone;
}

// The codes of a block of 32, eight to a vector. Byte i of qs holds those of values i and i + 16; qh, for
// codes above 15, the fifth bit of value i in its bit i.
EDGELLM_INLINE void store_codes32(const I* codes, uint8_t* qs, uint8_t* qh = nullptr) {
    store_codes(qs, (codes[0] & 15) | (codes[2] & 15) << 4);
    store_codes(qs + 8, (codes[1] & 15) | (codes[3] & 15) << 4);
    if (qh == nullptr) return;
    const I lane = {0, 1, 2, 3, 4, 5, 6, 7};
    I bits = codes[0] >> 4 | codes[1] >> 4 << 8 | codes[2] >> 4 << 16 | codes[3] >> 4 << 24;
    bits <<= lane;
    bits |= __builtin_shufflevector(bits, bits, 4, 5, 6, 7, 0, 1, 2, 3);
    bits |= __builtin_shufflevector(bits, bits, 2, 3, 0, 1, 6, 7, 4, 5);
    bits |= __builtin_shufflevector(bits, bits, 1, 0, 3, 2, 5, 4, 7, 6);
    const int32_t word = bits[0];
    std::memcpy(qh, &word, 4);
}

template <class Block, class Levels, bool kWeighted>
EncodeStatus search_symmetric(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    const auto encode = [](const Groups<32, kWeighted>& g, const float* values, int n, Block* blocks) {
        const F found = kWeighted ? search_scale<Levels>(g, kSymmetricSteps, kSymmetricStep, 2)
                                  : search_scale<Levels>(g, kPlainSymmetricSteps, kPlainSymmetricStep, 0);
        const F d = round_lanes_to_half(found);
        for (int lane = 0; lane < n; ++lane) {
            if (!is_finite(d[lane])) return false;
            const F inverse = splat(d[lane] == 0 ? 0.0f : 1.0f / d[lane]);
            I codes[4];
            for (int i = 0; i < 4; ++i)
                codes[i] = Levels::code(load(values + 32 * lane + kLanes * i) * inverse);
            store_half(blocks[lane].d, d[lane]);
            if constexpr (sizeof(blocks->qs) + 2 == sizeof(Block)) {
                store_codes32(codes, blocks[lane].qs);
            } else {
                store_codes32(codes, blocks[lane].qs, blocks[lane].qh);
            }
        }
        return true;
    };
    return encode_blocks32<Block, kWeighted>(x, importance, n_blocks, out, encode);
}

template <class Block, class Levels>
EncodeStatus encode_symmetric(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    return importance == nullptr ? search_symmetric<Block, Levels, false>(x, nullptr, n_blocks, out)
                                 : search_symmetric<Block, Levels, true>(x, importance, n_blocks, out);
}

template <class Block, int top, bool kWeighted>
EncodeStatus search_offset(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    const auto encode = [](const Groups<32, kWeighted>& g, const float* values, int n, Block* blocks) {
        const Affine found = kWeighted ? search_affine<top, false>(g, -1, 1, 0.5f / top, 2)
                                       : search_affine<top, false>(g, 0, 0, 0.5f / top, 1);
        F d = round_lanes_to_half(found.d), m = round_lanes_to_half(found.b);
        F low = g.x[0];
        for (const F& value : g.x) low = lanes_min(low, value);
        low = round_lanes_to_half(low);
        const F pinned = round_lanes_to_half(kWeighted ? search_range<top>(g, low, 2, 1.0f / top)
                                                       : plain_range<top>(g, low));
        const I better = affine_error<top>(g, pinned, low) < affine_error<top>(g, d, m);
        d = better ? pinned : d;
        m = better ? low : m;
        for (int lane = 0; lane < n; ++lane) {
            if (!is_finite(d[lane]) || !is_finite(m[lane])) return false;
            const F inverse = splat(d[lane] == 0 ? 0.0f : 1.0f / d[lane]), offset = splat(m[lane]);
            I codes[4];
            for (int i = 0; i < 4; ++i) {
                const F above = load(values + 32 * lane + kLanes * i) - offset;
                codes[i] = __builtin_convertvector(clamp(nearest(above * inverse), 0, top), I);
            }
            store_half(blocks[lane].d, d[lane]);
            store_half(blocks[lane].m, m[lane]);
            if constexpr (top == 15) {
                store_codes32(codes, blocks[lane].qs);
            } else {
                store_codes32(codes, blocks[lane].qs, blocks[lane].qh);
            }
        }
        return true;
    };
    return encode_blocks32<Block, kWeighted>(x, importance, n_blocks, out, encode);
}

template <class Block, int top>
EncodeStatus encode_affine(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    return importance == nullptr ? search_offset<Block, top, false>(x, nullptr, n_blocks, out)
                                 : search_offset<Block, top, true>(x, importance, n_blocks, out);
}

EncodeStatus encode_zero4(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    const auto encode = [](const Groups<32>& g, const float* values, int n, BlockZero4* blocks) {
        const ZeroPoint found = search_zero_point(g, 3, 0.03f);
        for (int lane = 0; lane < n; ++lane) {
            const float d = found.d[lane];
            if (!is_finite(d)) return false;
            const F inverse = splat(d == 0 ? 0.0f : 1.0f / d), zero = splat(found.zero[lane]);
            uint8_t codes[32];
            for (int i = 0; i < 32; i += kLanes) {
                const F level = clamp(nearest(load(values + 32 * lane + i) * inverse + zero), 0, 15);
                store_codes(codes + i, __builtin_convertvector(level, I));
            }
            std::memcpy(blocks[lane].d, &d, 4);
            blocks[lane].zero = static_cast<uint8_t>(found.zero[lane]);
            for (int i = 0; i < 16; ++i) {
                blocks[lane].qs[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
            }
        }
        return true;
    };
    return encode_blocks32<BlockZero4>(x, importance, n_blocks, out, encode);
}

// The largest magnitude becomes 127; with 8 bits a search gains nothing to speak of.
EncodeStatus encode_q8_0(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    for (size_t b = 0; b < n_blocks; ++b, x += 32, out += sizeof(BlockQ8_0)) {
        F values[4], most = splat(0.0f), bad = splat(0.0f);
        for (int i = 0; i < 4; ++i) {
            values[i] = load(x + i * kLanes);
            most = lanes_max(most, lanes_abs(values[i]));
            bad += values[i] * 0.0f;
        }
        if (sum(bad) != 0) return EncodeStatus::kNotFinite;
        float largest = 0;
        for (int lane = 0; lane < kLanes; ++lane) largest = most[lane] > largest ? most[lane] : largest;
        const float d = round_to_half(largest / 127);
        if (!is_finite(d)) return EncodeStatus::kTooLarge;
        BlockQ8_0 block;
        store_half(block.d, d);
        const F inverse = splat(d == 0 ? 0.0f : 1.0f / d);
        for (int i = 0; i < 4; ++i) {
            const F level = clamp(nearest(values[i] * inverse), -127, 127);
            store_codes(reinterpret_cast<uint8_t*>(block.qs) + i * kLanes, __builtin_convertvector(level, I));
        }
        std::memcpy(out, &block, sizeof(block));
    }
    return EncodeStatus::kDone;
}

// The e2m1 numbers, doubled.
struct E2M1 {
    static EDGELLM_INLINE F magnitude(F x) {
        F found = splat(0.0f);
        for (int i = 1; i < 8; ++i) found = x > splat(border(i)) ? splat(kMXFP4Levels[i]) : found;
        return found;
    }
    static EDGELLM_INLINE I code(F x) {
        I found = {};
        for (int i = 1; i < 8; ++i) found -= lanes_abs(x) > splat(border(i));
        return found | ((x < splat(0.0f)) & (found > 0) & 8);
    }

  private:
    // Between level i - 1 and level i.
    static constexpr float border(int i) {
        return 0.5f * static_cast<float>(kMXFP4Levels[i - 1] + kMXFP4Levels[i]);
    }
};

// Of the powers of two that put the largest magnitude near the largest level, the one of least error.
EncodeStatus encode_mxfp4(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    const auto encode = [](const Groups<32>& g, const float* values, int n, BlockMXFP4* blocks) {
        F largest = splat(0.0f);
        for (const F& value : g.x) largest = lanes_max(largest, lanes_abs(value));
        const I exponents = (I)largest >> 23;
        F best = splat(__FLT_MAX__);
        I chosen = exponents * 0;
        for (int change = -3; change <= 0; ++change) {
            I e = exponents + change;
            F scale;
            for (int lane = 0; lane < kLanes; ++lane) {
                e[lane] = e[lane] < 0 ? 0 : e[lane] > 254 ? 254 : e[lane];
                scale[lane] = mxfp4_scale(static_cast<uint8_t>(e[lane]));
            }
            F error = splat(0.0f);
            for (int i = 0; i < 32; ++i) {
                const F magnitude = lanes_abs(g.x[i]);
                const F off = E2M1::magnitude(magnitude / scale) * scale - magnitude;
                error += g.w[i] * off * off;
            }
            const I better = error < best;
            best = better ? error : best;
            chosen = better ? e : chosen;
        }
        for (int lane = 0; lane < n; ++lane) {
            blocks[lane].e = static_cast<uint8_t>(chosen[lane]);
            const F scale = splat(mxfp4_scale(blocks[lane].e));
            uint8_t codes[32];
            for (int i = 0; i < 32; i += kLanes)
                store_codes(codes + i, E2M1::code(load(values + 32 * lane + i) / scale));
            pack_codes(codes, blocks[lane].qs);
        }
        return true;
    };
    return encode_blocks32<BlockMXFP4>(x, importance, n_blocks, out, encode);
}

// One block of 256 after another. store(search, codes, stored): fills `stored`; returns false where a scale
// is too large.
template <class Stored, class Search, bool kWeigh = false, class Store>
EncodeStatus encode_blocks256(const float* x, const float* importance, size_t n_blocks, uint8_t* out,
                              int steps, float step, Store store) {
    for (size_t b = 0; b < n_blocks; ++b) {
        Search search;
        if (!search.read(x + 256 * b, offset_or_null(importance, 256 * b))) return EncodeStatus::kNotFinite;
        if constexpr (kWeigh) {
            if (importance == nullptr) search.weigh_by_magnitude();
        }
        search.search(steps, step);
        uint8_t codes[256];
        search.codes(x + 256 * b, codes);
        Stored stored;
        std::memset(&stored, 0, sizeof(stored));
        if (!store(search, codes, stored)) return EncodeStatus::kTooLarge;
        std::memcpy(out + b * sizeof(stored), &stored, sizeof(stored));
    }
    return EncodeStatus::kDone;
}

// Group g's integer out of the batches of a search.
template <class Vectors>
int integer(const Vectors& vectors, int group) {
    return static_cast<int>(vectors[group / kLanes][group % kLanes]);
}

// 2-bit codes: byte i of a half holds values i, i + 32, i + 64, i + 96 of its 128.
void store_two_bits(const uint8_t* codes, uint8_t* qs) {
    for (int i = 0; i < 64; ++i) {
        const uint8_t* c = codes + i / 32 * 128 + i % 32;
        qs[i] = static_cast<uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
    }
}

EncodeStatus encode_q2_k(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Search = AffineBlock<16, 3, 15>;
    return encode_blocks256<BlockQ2_K, Search>(
        x, importance, n_blocks, out, 5, 0.06f, [](const Search& s, const uint8_t* codes, BlockQ2_K& block) {
            for (int g = 0; g < 16; ++g) {
                block.scales[g] = static_cast<uint8_t>(integer(s.scale, g) | integer(s.minimum, g) << 4);
            }
            store_two_bits(codes, block.qs);
            store_half(block.d, s.d);
            store_half(block.dmin, s.m);
            return is_finite(s.d) && is_finite(s.m);
        });
}

EncodeStatus encode_q3_k(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Levels = Integers<-4, 3>;
    using Search = ScaledBlock<16, Levels, -32, 31>;
    return encode_blocks256<BlockQ3_K, Search>(
        x, importance, n_blocks, out, 4, 0.06f, [](const Search& s, const uint8_t* codes, BlockQ3_K& block) {
            for (int g = 0; g < 16; ++g) {
                const int scale = integer(s.scale, g) + 32;
                block.scales[g % 8] |= static_cast<uint8_t>((scale & 15) << (g < 8 ? 0 : 4));
                block.scales[8 + g % 4] |= static_cast<uint8_t>((scale >> 4) << 2 * (g / 4));
            }
            store_two_bits(codes, block.qs);
            for (int i = 0; i < 256; ++i)
                block.hmask[i % 32] |= static_cast<uint8_t>((codes[i] >> 2) << i / 32);
            store_half(block.d, s.d);
            return is_finite(s.d);
        });
}

// The eight 6-bit scales and minimums of Q4_K and Q5_K; see unpack_k_scales.
template <class Search>
void store_k_scales(const Search& s, uint8_t* packed) {
    for (int g = 0; g < 8; ++g) {
        const int scale = integer(s.scale, g), minimum = integer(s.minimum, g);
        if (g < 4) {
            packed[g] |= static_cast<uint8_t>(scale);
            packed[g + 4] |= static_cast<uint8_t>(minimum);
        } else {
            packed[g + 4] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
            packed[g - 4] |= static_cast<uint8_t>((scale >> 4) << 6);
            packed[g] |= static_cast<uint8_t>((minimum >> 4) << 6);
        }
    }
}

// 4-bit codes: byte i holds values i and i + 32 of its 64.
void store_four_bits(const uint8_t* codes, uint8_t* qs) {
    for (int i = 0; i < 128; ++i) {
        const uint8_t* c = codes + i / 32 * 64 + i % 32;
        qs[i] = static_cast<uint8_t>((c[0] & 15) | (c[32] & 15) << 4);
    }
}

EncodeStatus encode_q4_k(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Search = AffineBlock<32, 15, 63>;
    return encode_blocks256<BlockQ4_K, Search, true>(
        x, importance, n_blocks, out, 3, 0.03f, [](const Search& s, const uint8_t* codes, BlockQ4_K& block) {
            store_half(block.d, s.d);
            store_half(block.dmin, s.m);
            store_k_scales(s, block.scales);
            store_four_bits(codes, block.qs);
            return is_finite(s.d) && is_finite(s.m);
        });
}

EncodeStatus encode_q5_k(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Search = AffineBlock<32, 31, 63>;
    return encode_blocks256<BlockQ5_K, Search, true>(
        x, importance, n_blocks, out, 3, 0.015f, [](const Search& s, const uint8_t* codes, BlockQ5_K& block) {
            store_half(block.d, s.d);
            store_half(block.dmin, s.m);
            store_k_scales(s, block.scales);
            store_four_bits(codes, block.qs);
            for (int i = 0; i < 256; ++i) block.qh[i % 32] |= static_cast<uint8_t>((codes[i] >> 4) << i / 32);
            return is_finite(s.d) && is_finite(s.m);
        });
}

EncodeStatus encode_q6_k(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Levels = Integers<-32, 31>;
    using Search = ScaledBlock<16, Levels, -128, 127>;
    return encode_blocks256<BlockQ6_K, Search>(
        x, importance, n_blocks, out, 5, 0.005f, [](const Search& s, const uint8_t* codes, BlockQ6_K& block) {
            for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<int8_t>(integer(s.scale, g));
            for (int i = 0; i < 128; ++i) {
                const uint8_t* c = codes + i / 64 * 128 + i % 64;
                block.ql[i] = static_cast<uint8_t>((c[0] & 15) | (c[64] & 15) << 4);
            }
            uint8_t high[256];
            for (int i = 0; i < 256; ++i) high[i] = codes[i] >> 4;
            store_two_bits(high, block.qh);
            store_half(block.d, s.d);
            return is_finite(s.d);
        });
}

EncodeStatus encode_iq4_xs(const float* x, const float* importance, size_t n_blocks, uint8_t* out) {
    using Search = ScaledBlock<32, IQ4Levels, -32, 31>;
    return encode_blocks256<BlockIQ4_XS, Search>(
        x, importance, n_blocks, out, 3, 0.04f,
        [](const Search& s, const uint8_t* codes, BlockIQ4_XS& block) {
            store_half(block.d, s.d);
            for (int g = 0; g < 8; ++g) {
                const int scale = integer(s.scale, g) + 32;
                block.scales_l[g / 2] |= static_cast<uint8_t>((scale & 15) << (g % 2 * 4));
                block.scales_h[g / 4] |= static_cast<uint8_t>((scale >> 4) << (g % 4 * 2));
                pack_codes(codes + 32 * g, block.qs + 16 * g);
            }
            return is_finite(s.d);
        });
}

constexpr Encoder kTable[] = {
    {GGMLType::F32, encode_f32},
    {GGMLType::F16, encode_f16},
    {GGMLType::BF16, encode_bf16},
    {GGMLType::Q4_0, encode_symmetric<BlockQ4_0, Integers<-8, 7>>},
    {GGMLType::Q4_1, encode_affine<BlockQ4_1, 15>},
    {GGMLType::Q5_0, encode_symmetric<BlockQ5_0, Integers<-16, 15>>},
    {GGMLType::Q5_1, encode_affine<BlockQ5_1, 31>},
    {GGMLType::Q8_0, encode_q8_0},
    {GGMLType::Q2_K, encode_q2_k},
    {GGMLType::Q3_K, encode_q3_k},
    {GGMLType::Q4_K, encode_q4_k},
    {GGMLType::Q5_K, encode_q5_k},
    {GGMLType::Q6_K, encode_q6_k},
    {GGMLType::IQ4_NL, encode_symmetric<BlockIQ4_NL, IQ4Levels>},
    {GGMLType::IQ4_XS, encode_iq4_xs},
    {GGMLType::MXFP4, encode_mxfp4},
    {kZero4, encode_zero4},
};

}  // namespace
}  // namespace edgellm
