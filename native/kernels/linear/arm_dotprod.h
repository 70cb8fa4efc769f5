// SPDX-License-Identifier: MIT
// Dots of the sets with SDOT: 4 rows x 4 columns times a lane of 4 activations.
#pragma once

#include "kernels/linear/arm_tiles.h"

namespace edgellm {
namespace {

struct DotprodRegisters : NeonRegisters {
    static constexpr int kUnits = 2, kTokens = 1, kSteps = 4, kCodesAtOnce = 4;
    static constexpr bool kLoadsHalves = false;
    using Sizes = TileSizes<4, 3, 2, 1>;
    using PackedSizes = TileSizes<4, 3, 2, 1>;
    static constexpr int packed_units(int tokens) { return tokens == 1 ? 4 : 2; }
    static constexpr int code_class(int) { return 128; }
    using Activations = int8x16_t;
    using Chunk = LaneChunk;

    template <int kMagnitude, int n>
    struct Dot {
        int32x4_t sum;

        EDGELLM_INLINE void begin() { sum = load_start(); }
        // In place, here: the compiler would else load a block's codes first and spill them.
        template <int i, int kStep>
        EDGELLM_INLINE void add(int8x16_t codes, int8x16_t x) {
            __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[%c3]" : "+w"(sum) : "w"(codes), "w"(x), "i"(kStep));
        }
        EDGELLM_INLINE int32x4_t end() const { return sum; }
    };

    EDGELLM_INLINE static void place_codes(const int8x16_t* groups, int part, int8_t* to) {
        EDGELLM_UNROLL
        for (int i = 0; i < 4; ++i) vst1q_s8(to + (i * kUnits + part) * 16, groups[i]);
    }
    EDGELLM_INLINE static void place(float32x4_t v, int part, float* to) { vst1q_f32(to + 4 * part, v); }
};

}  // namespace
}  // namespace edgellm
