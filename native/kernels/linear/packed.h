// SPDX-License-Identifier: MIT
// Packed panels, read register by register.
#pragma once

#include "kernels/linear/common.h"

namespace edgellm {
namespace {

template <class S, GGMLType type>
struct PackedSource {
    static constexpr Layout kLayout = layout_of(type);
    static constexpr size_t kBlockBytes = packed_block_bytes(kLayout);
    static constexpr size_t kHeaderBytes = header_bytes(kLayout.scales);
    static constexpr bool kPairs = kLayout.scales == Scales::kSuperPairs;
    static constexpr bool kSignedCodes = S::kSigned && kLayout.offset == 128;
    // Largest unsigned code.
    static constexpr int kMax = kLayout.offset == 128               ? 255
                                : kLayout.levels                    ? 2 * kLayout.offset
                                : kLayout.codes == Codes::kNibbles  ? 15
                                : kLayout.codes == Codes::kFiveBits ? 31
                                                                    : 63;
    static constexpr int kLanes = 16 / S::kParts;
    static constexpr int kSlots = S::kParts;

    const uint8_t* header;
    const uint8_t* block;
    size_t index = 0;
    bool fetch_far;

    PackedSource(const uint8_t* first, bool far)
        : header(first), block(first + kHeaderBytes), fetch_far(far) {}

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

}  // namespace
}  // namespace edgellm
