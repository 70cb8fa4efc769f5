// SPDX-License-Identifier: MIT
// Armv8.0: Cortex-A53 and A72. Products of bytes are summed in 16 bits, two columns of a row apart, and
// widened as seldom as their codes allow.
#include "kernels/linear/arm_tiles.h"

namespace edgellm {
namespace {

struct Neon : NeonRegisters {
    static constexpr int kUnits = 2, kTokens = 1, kSteps = 4, kCodesAtOnce = 2;
    static constexpr bool kLoadsHalves = false;
    using Sizes = TileSizes<2, 1>;
    using PackedSizes = TileSizes<2, 1>;
    static constexpr int packed_units(int tokens) { return tokens == 1 ? 4 : 2; }
    using Activations = int8x16_t;
    using Chunk = LaneChunk;
    using Lanes = Neon;
    // A class of codes has the largest magnitude with the same room.
    static constexpr int code_class(int magnitude) {
        return magnitude <= 16 ? 16 : magnitude <= 32 ? 32 : magnitude <= 64 ? 64 : 128;
    }

    // Sums in place, and here: else the compiler moves products away from their sums, copies and spills.
    EDGELLM_INLINE static void add_products(int16x8_t& low, int16x8_t& high, int8x16_t a, int8x16_t b) {
        __asm__ volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(low) : "w"(a), "w"(b));
        __asm__ volatile("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(high) : "w"(a), "w"(b));
    }
    EDGELLM_INLINE static void add_pairs(int32x4_t& sum, int16x8_t a) {
        __asm__ volatile("sadalp %0.4s, %1.8h" : "+w"(sum) : "w"(a));
    }

    template <int kMagnitude, int n>
    struct Dot {
        static constexpr int kRoom = 32767 / (127 * kMagnitude);  // products that fit 16 bits
        static constexpr bool kOnce = n <= kRoom;                 // widened once, at the end
        int16x8_t low, high;            // a lane for each column of rows 0 and 1, of rows 2 and 3
        int32x4_t wide_low, wide_high;  // a lane for two columns

        EDGELLM_INLINE void begin() {}
        template <int i, int kStep>
        EDGELLM_INLINE void add(int8x16_t codes, int8x16_t x) {
            int8x16_t quad;  // GCC would take the lane from a half of the register, by a shift
            __asm__("dup %0.4s, %1.s[%c2]" : "=w"(quad) : "w"(x), "i"(kStep));
            if constexpr (i % kRoom == 0) {
                __asm__ volatile("smull %0.8h, %1.8b, %2.8b" : "=w"(low) : "w"(codes), "w"(quad));
                __asm__ volatile("smull2 %0.8h, %1.16b, %2.16b" : "=w"(high) : "w"(codes), "w"(quad));
            } else {
                add_products(low, high, codes, quad);
            }
            if constexpr (!kOnce && ((i + 1) % kRoom == 0 || i + 1 == n)) {
                if constexpr (i < kRoom) {
                    wide_low = vpaddlq_s16(low);
                    wide_high = vpaddlq_s16(high);
                } else {
                    add_pairs(wide_low, low);
                    add_pairs(wide_high, high);
                }
            }
        }
        EDGELLM_INLINE int32x4_t end() const {
            if constexpr (2 * n <= kRoom) {
                int32x4_t sum = load_start();
                add_pairs(sum, vpaddq_s16(low, high));
                return sum;
            } else if constexpr (kOnce) {
                return vaddq_s32(load_start(), vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
            } else {
                return vaddq_s32(load_start(), vpaddq_s32(wide_low, wide_high));
            }
        }
    };

    EDGELLM_INLINE static void place_codes(const int8x16_t* groups, int part, int8_t* to) {
        EDGELLM_UNROLL
        for (int i = 0; i < 4; ++i) vst1q_s8(to + (i * kUnits + part) * 16, groups[i]);
    }
    EDGELLM_INLINE static void place(float32x4_t v, int part, float* to) { vst1q_f32(to + 4 * part, v); }
};

}  // namespace

EDGELLM_LINEAR_KERNELS(Neon, ArmEngine<Neon>)

}  // namespace edgellm
