// SPDX-License-Identifier: MIT
// Packed panels, read register by register.
#pragma once

#include <bit>

#include "kernels/linear/common.h"

namespace edgellm {
namespace {

// Of a power of two; 0 of 0.
constexpr int log2_of(int n) {
    return n == 0 ? 0 : std::countr_zero(static_cast<unsigned>(n));
}

template <class S, GGMLType type>
struct PackedSource {
    static constexpr Layout kLayout = layout_of(type);
    static constexpr size_t kBlockBytes = packed_block_bytes(kLayout);
    static constexpr size_t kHeaderBytes = header_bytes(kLayout.scales);
    static constexpr bool kPairs = kLayout.scales == Scales::kSuperPairs;
    static constexpr bool kHalfMinimums = kLayout.scales == Scales::kExpanded;
    static constexpr bool kSignedCodes = S::kSigned && kLayout.offset == 128;
    // Largest unsigned code.
    static constexpr int kMax = kLayout.offset == 128               ? 255
                                : kLayout.levels                    ? 2 * kLayout.offset
                                : kLayout.codes == Codes::kNibbles  ? 15
                                : kLayout.codes == Codes::kFiveBits ? 31
                                                                    : 63;
    // What sums are of codes less, which takes a shift of what they begin at (a member of expanded sources).
    static constexpr int kCentre = kSignedCodes ? 0 : S::centre(kMax, kLayout.offset);
    static constexpr bool kCentred = kCentre != 0;
    static constexpr int shift = log2_of(kCentre);
    static constexpr bool kHasMinimum =
        !kSignedCodes && (kLayout.offset != kCentre || kLayout.scales == Scales::kHalfMin ||
                          kLayout.scales == Scales::kSuperMin);
    static constexpr int kLanes = 16 / S::kParts;
    static constexpr int kSlots = S::kParts;

    const uint8_t* header;
    const uint8_t* block;
    size_t index = 0;
    bool fetch_far;

    // From a block on whose index is a multiple of 8 where there are headers.
    PackedSource(const PackedMatrix& m, size_t panel, size_t first)
        : header(m.data + panel * m.panel_stride + packed_bytes(kLayout, first)),
          block(header + kHeaderBytes),
          fetch_far(m.fetch_far) {}

    EDGELLM_INLINE void next() {
        block += kBlockBytes;
        if constexpr (kHeaderBytes > 0) {
            if (++index % 8 == 0) {
                header = block;
                block += kHeaderBytes;
            }
        }
    }

    // A group's share of the lines of the block to come: asked for all at once they arrive more slowly. Zen 4
    // reads codes wider than nibbles 5 to 35 % faster by way of L2, and nibbles as much more slowly.
    EDGELLM_INLINE void prefetch(int group) const {
        EDGELLM_UNROLL
        for (size_t i = 64 * static_cast<size_t>(group); i < kBlockBytes; i += 8 * 64) {
            if (kLayout.codes != Codes::kNibbles && fetch_far) {
                __builtin_prefetch(block + kFarPrefetchBytes + i, 0, 2);
            } else {
                __builtin_prefetch(block + kPrefetchBytes + i);
            }
        }
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
        } else if constexpr (kLayout.scales == Scales::kExpanded) {
            return S::load_floats(reinterpret_cast<const float*>(header) + row);
        } else {
            static_assert(kLayout.scales == Scales::kSuperPairs);
            return S::load_halves(header + 2 * row);
        }
    }

    // m_w of the formula, for codes less kCentre.
    EDGELLM_INLINE typename S::Floats minimum(int part) const {
        const int row = part * kLanes;
        const auto centre = S::broadcast(static_cast<float>(kCentre - kLayout.offset));
        if constexpr (kLayout.scales == Scales::kHalfMin) {
            const auto v = S::load_halves(block + 32 + 2 * row);
            return kCentre == 0 ? v : S::fma(scale(part), centre, v);
        } else if constexpr (kLayout.scales == Scales::kSuperMin) {
            const auto v =
                S::negate(S::mul(S::load_halves(header + 32 + 2 * row), S::load_u8(block + 16 + row)));
            return kCentre == 0 ? v : S::fma(scale(part), centre, v);
        } else {
            return S::mul(scale(part), centre);
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

    // Of formats with a minimum per 16 columns, which is subtracted.
    EDGELLM_INLINE typename S::Floats half_minimum(int half, int part) const {
        const int row = part * kLanes;
        const auto dmin = S::negate(S::load_floats(reinterpret_cast<const float*>(header) + 16 + row));
        return S::mul(dmin, S::load_u8(block + 32 + 16 * half + row));
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
            if constexpr (kLayout.levels) {
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

// A split matrix by its upper bits: what the lower ones can be is taken as their middle.
template <class S>
struct UpperSource : PackedSource<S, GGMLType::Q5_0> {
    using Base = PackedSource<S, GGMLType::Q5_0>;
    using Base::Base;
    static constexpr bool kHasMinimum = true;

    EDGELLM_INLINE typename S::Floats scale(int part) const {
        return S::mul(Base::scale(part), S::broadcast(8.0f));
    }
    EDGELLM_INLINE typename S::Floats minimum(int part) const {
        return S::mul(Base::scale(part), S::broadcast(8.0f * Base::kCentre + 3.5f - 128.0f));
    }
};

// A split matrix as Q8_0 has it.
template <class S>
struct SplitSource : PackedSource<S, GGMLType::Q5_0> {
    using Base = PackedSource<S, GGMLType::Q5_0>;
    static constexpr bool kSignedCodes = S::kSigned;
    static constexpr int kMax = 255;
    static constexpr int kCentre = kSignedCodes ? 0 : S::centre(kMax, 128);
    static constexpr bool kCentred = kCentre != 0;
    static constexpr int shift = log2_of(kCentre);
    static constexpr bool kHasMinimum = false;

    const uint8_t* lower;

    SplitSource(const PackedMatrix& m, size_t panel, size_t first)
        : Base(m, panel, first),
          lower(m.data + lower_offset(m) + panel * lower_panel_bytes(m) + first * kLowerBlockBytes) {}

    EDGELLM_INLINE void next() {
        Base::next();
        lower += kLowerBlockBytes;
    }
    EDGELLM_INLINE void prefetch(int group) const {
        Base::prefetch(group);
        if (group >= 3) return;
        if (Base::fetch_far) {
            __builtin_prefetch(lower + kFarPrefetchBytes / 2 + 64 * group, 0, 2);
        } else {
            __builtin_prefetch(lower + kPrefetchBytes / 2 + 64 * group);
        }
    }
    EDGELLM_INLINE typename S::Bytes codes(int group, int part) const {
        const size_t at = static_cast<size_t>(part) * (64 / S::kParts);
        const uint8_t* upper = Base::block + scale_bytes(Base::kLayout.scales) + at;
        const uint8_t* bits = lower + at;
        typename S::Bytes v = S::take_bits(S::load(upper + 64 * (group % 4)), group < 4 ? 3 : -1, 0x78);
        v = S::or_bits(v, S::load(upper + 256), 7 - group, 0x80);
        if (group < 6) {
            v = S::or_bits(v, S::load(bits + 64 * (group / 2)), group % 2 * -3, 0x07);
        } else {
            v = S::or_bits(v, S::load(bits + 64 * (group - 6)), -6, 0x03);
            v = S::or_bits(v, S::load(bits + 128), 2 - group, 0x04);
        }
        if constexpr (kSignedCodes) {
            return S::flip_sign(v);
        } else {
            return v;
        }
    }
};

}  // namespace
}  // namespace edgellm
