// SPDX-License-Identifier: MIT
// Packed panels, read register by register.
#pragma once

#include <bit>

#include "kernels/linear/common.h"

namespace edgellm {
namespace {

// Exponent of a power of two; 0 for 0.
constexpr int log2_of(int n) {
    return n == 0 ? 0 : std::countr_zero(static_cast<unsigned>(n));
}

template <class S, class F>
struct PackedSource {
    using Format = F;
    using Codes = typename F::Codes;
    using Scales = typename F::Scales;
    static constexpr size_t kBlockBytes = packed_block_bytes<F>();
    static constexpr size_t kHeaderBytes = Scales::kHeaderBytes;
    static constexpr bool kPairs = Scales::kPairs;
    static constexpr bool kIntegerPairs = Scales::kIntegerPairs;
    static constexpr bool kIntegers = Scales::kIntegers;
    static constexpr bool kHalfMinimums = Scales::kHalfMinimums;
    static constexpr bool kSignedCodes =
        S::kSignedDots && (F::kOffset == 128 || (kHasLevels<F> && S::kWideDots));
    // Largest unsigned code.
    static constexpr int kMax = largest_code<F>();
    // Zero point folded into the accumulator's start: that of centre 1, shifted (a member of expanded
    // sources).
    static constexpr int kCentre = kSignedCodes ? 0 : S::centre(kMax, F::kOffset);
    static constexpr bool kCentred = kCentre != 0;
    static constexpr int shift = log2_of(kCentre);
    static constexpr bool kHasMinimum = !kSignedCodes && (F::kOffset != kCentre || Scales::kHasMinimum);
    static constexpr int kLanes = 16 / S::kParts;
    static constexpr int kSlots = S::kParts;

    const uint8_t* header;
    const uint8_t* block;
    size_t index = 0;
    bool fetch_into_l2;

    // `first`: the block to begin with, a multiple of kHeaderBlocks where there are headers.
    PackedSource(const PackedMatrix& m, size_t panel, size_t first)
        : header(m.data + panel * m.panel_stride + packed_bytes<F>(first)),
          block(header + kHeaderBytes),
          fetch_into_l2(m.fetch_into_l2) {}

    EDGELLM_INLINE void next() {
        block += kBlockBytes;
        if constexpr (kHeaderBytes > 0) {
            if (++index % kHeaderBlocks == 0) {
                header = block;
                block += kHeaderBytes;
            }
        }
    }

    // Prefetches a group's share of a later block's lines; all at once they arrive more slowly. A header may
    // follow the block: without its line each header is a miss. Zen 4 reads formats up to a third faster by
    // way of L2, but nibbles without headers a tenth more slowly.
    static constexpr bool kMayFetchFar = !std::is_same_v<Codes, Nibbles> || kHeaderBytes > 0;
    EDGELLM_INLINE void prefetch(int group) const {
        EDGELLM_UNROLL
        for (size_t i = 64 * static_cast<size_t>(group); i < kBlockBytes + kHeaderBytes; i += 8 * 64) {
            if (kMayFetchFar && fetch_into_l2) {
                __builtin_prefetch(block + kFarPrefetchBytes + i, 0, 2);
            } else {
                __builtin_prefetch(block + kPrefetchBytes + i);
            }
        }
    }

    EDGELLM_INLINE typename S::Floats scale(int part) const {
        return Scales::template scale<S>(header, block, part * kLanes);
    }

    // Minimum of the formula, for codes less kCentre.
    EDGELLM_INLINE typename S::Floats minimum(int part) const {
        const auto rest = S::broadcast(static_cast<float>(kCentre - F::kOffset));
        if constexpr (Scales::kHasMinimum) {
            const auto v = Scales::template minimum<S>(header, block, part * kLanes);
            return kCentre == 0 ? v : S::fma(scale(part), rest, v);
        } else {
            return S::mul(scale(part), rest);
        }
    }

    EDGELLM_INLINE typename S::Floats pair_scale(int half, int part) const {
        return Scales::template pair_scale<S>(header, block, half, part * kLanes);
    }
    EDGELLM_INLINE typename S::Bytes pair_words(int half, int part) const {
        return Scales::template pair_words<S>(header, block, half, part * kLanes);
    }
    EDGELLM_INLINE typename S::Ints integer(int half, int part) const {
        return Scales::template integer<S>(header, block, half, part * kLanes);
    }
    EDGELLM_INLINE typename S::Floats half_minimum(int half, int part) const {
        return Scales::template half_minimum<S>(header, block, half, part * kLanes);
    }

    EDGELLM_INLINE typename S::Bytes codes(int group, int part) const {
        constexpr size_t kPartBytes = 64 / S::kParts;
        const uint8_t* data = block + Scales::kBytes + static_cast<size_t>(part) * kPartBytes;
        const typename S::Bytes v = Codes::template read<S>(data, group);
        if constexpr (kHasLevels<F>) {
            return S::template lookup<F, kSignedCodes ? 0 : F::kOffset>(v);
        } else if constexpr (std::is_same_v<Codes, SignedBytes> && !kSignedCodes) {
            return S::flip_sign(v);
        } else {
            return v;
        }
    }
};

// ---- Levels as unsigned codes ----

// The least power of two that makes no level negative; 0 if none is.
template <class F>
constexpr int zero_point() {
    int lowest = 0;
    for (int i = 0; i < 16; ++i) lowest = std::min(lowest, int{F::kLevels[i]});
    return lowest == 0 ? 0 : static_cast<int>(std::bit_ceil(static_cast<unsigned>(-lowest)));
}

// Largest magnitude of a level.
template <class F>
constexpr int largest_level() {
    int largest = 0;
    for (int i = 0; i < 16; ++i) largest = std::max({largest, int{F::kLevels[i]}, -int{F::kLevels[i]}});
    return largest;
}

// True if a code less the zero point is its level. Levels that no code has are zero.
template <class F>
constexpr bool levels_are_codes() {
    bool same = true;
    for (int i = 0; i < 16; ++i) same &= F::kLevels[i] == 0 || F::kLevels[i] == i - zero_point<F>();
    return same;
}

template <class Codes_, class Scales_, int kZeroPoint>
struct PlainCodes : QuantizedDefaults {
    using Codes = Codes_;
    using Scales = Scales_;
    static constexpr int kOffset = kZeroPoint;
};
template <class F>
struct ShiftedLevels : PlainCodes<typename F::Codes, typename F::Scales, zero_point<F>()> {
    static constexpr const int8_t* kLevels = F::kLevels;
};

// A format of levels as dots of unsigned bytes read it: without a table where codes need none.
template <class F>
using UnsignedLevels =
    std::conditional_t<levels_are_codes<F>(),
                       PlainCodes<typename F::Codes, typename F::Scales, zero_point<F>()>, ShiftedLevels<F>>;

// Upper bits of a split matrix. The lower ones count as the middle of what they can be.
template <class S>
struct UpperSource : PackedSource<S, SplitUpper> {
    using Base = PackedSource<S, SplitUpper>;
    using Base::Base;
    static constexpr bool kHasMinimum = true;

    EDGELLM_INLINE typename S::Floats scale(int part) const {
        return S::mul(Base::scale(part), S::broadcast(8.0f));
    }
    EDGELLM_INLINE typename S::Floats minimum(int part) const {
        return S::mul(Base::scale(part), S::broadcast(8.0f * Base::kCentre + 3.5f - 128.0f));
    }
};

// All bits of a split matrix.
template <class S>
struct SplitSource : PackedSource<S, SplitUpper> {
    using Base = PackedSource<S, SplitUpper>;
    static constexpr bool kSignedCodes = S::kSignedDots;
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
        if (Base::fetch_into_l2) {
            __builtin_prefetch(lower + kFarPrefetchBytes / 2 + 64 * group, 0, 2);
        } else {
            __builtin_prefetch(lower + kPrefetchBytes / 2 + 64 * group);
        }
    }
    EDGELLM_INLINE typename S::Bytes codes(int group, int part) const {
        const size_t at = static_cast<size_t>(part) * (64 / S::kParts);
        const uint8_t* upper = Base::block + Base::Scales::kBytes + at;
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
