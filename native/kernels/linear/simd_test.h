// SPDX-License-Identifier: MIT
// Each member of a LinearSimd against scalar code, on random registers. Included by generic.h where an
// instruction set's file is compiled for simd_test.cc.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "base/half.h"
#include "kernels/linear/common.h"

namespace edgellm {
namespace {

struct TestLevels {
    static constexpr int8_t kLevels[16] = {-127, -90, -64, -33, -8, -3, -1, 0, 1, 2, 7, 15, 31, 60, 99, 127};
};

// Pseudo-random numbers; those of the standard library would have external linkage.
struct Random {
    uint64_t state = 1;

    uint32_t next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state >> 32);
    }
    float number() { return static_cast<float>(static_cast<int32_t>(next())) * 0x1p-28f; }
    int integer(int low, int high) {
        return low + static_cast<int>(next() % static_cast<uint32_t>(high - low + 1));
    }
};

template <LinearSimd S>
class SimdTest {
  public:
    explicit SimdTest(const char* set) : set_(set) {}

    // Members that failed.
    int run() {
        for (int round = 0; round < 200; ++round) {
            loads();
            codes();
            take_bits(std::make_integer_sequence<int, 15>());
            dots();
            if constexpr (SimdWordDots<S>) words_of_codes();
            scales();
            stores();
            quantizing();
        }
        return failures_;
    }

  private:
    using Bytes = typename S::Bytes;
    using Ints = typename S::Ints;
    using Floats = typename S::Floats;
    static constexpr int kLanes = 16 / S::kParts, kBytes = 64 / S::kParts;
    static_assert(sizeof(Bytes) == kBytes && sizeof(Ints) == kBytes && sizeof(Floats) == kBytes);

    const char* set_;
    const char* failed_[64] = {};  // members, each once
    int failures_ = 0;
    Random random_;

    void check(bool ok, const char* member) {
        if (ok) return;
        for (int i = 0; i < failures_; ++i) {
            if (std::strcmp(failed_[i], member) == 0) return;
        }
        if (failures_ < 64) failed_[failures_++] = member;
        std::printf("%s: %s differs from scalar code\n", set_, member);
    }

    struct Raw {
        uint8_t v[64];

        int8_t at(int i) const { return static_cast<int8_t>(v[i]); }
        int word(int i) const {
            int16_t w;
            std::memcpy(&w, v + 2 * i, 2);
            return w;
        }
    };
    Raw random_bytes() {
        Raw r;
        for (uint8_t& v : r.v) v = static_cast<uint8_t>(random_.next());
        return r;
    }
    float number() { return random_.number(); }
    int integer(int low, int high) { return random_.integer(low, high); }

    // Registers as their bytes in memory.
    static Raw raw(const Bytes& a) {
        Raw r{};
        std::memcpy(r.v, &a, sizeof(a));
        return r;
    }
    static int32_t lane(const Ints& a, int i) {
        int32_t lanes[kLanes];
        std::memcpy(lanes, &a, sizeof(a));
        return lanes[i];
    }
    static float lane_of(const Floats& a, int i) {
        float lanes[kLanes];
        std::memcpy(lanes, &a, sizeof(a));
        return lanes[i];
    }
    static bool same(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

    // value(i) for each lane.
    template <class Value>
    void lanes(const Floats& found, const Value& value, const char* member) {
        for (int i = 0; i < kLanes; ++i) check(same(lane_of(found, i), value(i)), member);
    }
    template <class Value>
    void bytes(const Bytes& found, const Value& value, const char* member) {
        const Raw r = raw(found);
        for (int i = 0; i < kBytes; ++i) check(r.v[i] == static_cast<uint8_t>(value(i)), member);
    }
    template <class Value>
    void words(const Bytes& found, const Value& value, const char* member) {
        const Raw r = raw(found);
        for (int i = 0; i < kBytes / 2; ++i) check(r.word(i) == static_cast<int16_t>(value(i)), member);
    }

    void loads() {
        Raw r = random_bytes();
        const auto u16 = [&r](int i) { return static_cast<uint16_t>(r.word(i)); };
        bytes(S::load(r.v), [&](int i) { return r.v[i]; }, "load");
        lanes(S::load_u8(r.v), [&](int i) { return static_cast<float>(r.v[i]); }, "load_u8");
        lanes(S::load_i8(r.v), [&](int i) { return static_cast<float>(r.at(i)); }, "load_i8");
        lanes(S::load_bfloats(r.v), [&](int i) { return bf16_to_float(u16(i)); }, "load_bfloats");
        Raw small = r;
        for (uint8_t& v : small.v) v &= 127;
        const auto e4m3 = [&](int i) {
            const int exponent = small.v[i] >> 3, mantissa = small.v[i] & 7;
            return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -17)
                                 : std::ldexp(static_cast<float>(8 + mantissa), exponent - 18);
        };
        lanes(S::load_e4m3(small.v), e4m3, "load_e4m3");
        const Floats exponents = S::load_exponents(r.v);
        for (int i = 0; i < kLanes; ++i) {
            const float expected =
                r.v[i] == 255 ? std::numeric_limits<float>::infinity() : std::ldexp(1.0f, r.v[i] - 128);
            const float found = lane_of(exponents, i);
            check(same(found, expected) || (r.v[i] < 2 && found == 0.0f), "load_exponents");
        }
        float f[16];
        for (float& v : f) v = number();
        lanes(S::load_floats(f), [&](int i) { return f[i]; }, "load_floats");
        for (int i = 0; i < kLanes; ++i) r.v[2 * i + 1] &= 0xfb;  // no infinity and no NaN
        lanes(S::load_halves(r.v), [&](int i) { return half_to_float(u16(i)); }, "load_halves");
    }

    void codes() {
        const Raw r = random_bytes();
        const Bytes a = S::load(r.v);
        bytes(S::low_nibbles(a), [&](int i) { return r.v[i] & 15; }, "low_nibbles");
        bytes(S::high_nibbles(a), [&](int i) { return r.v[i] >> 4; }, "high_nibbles");
        bytes(S::flip_sign(a), [&](int i) { return r.v[i] ^ 128; }, "flip_sign");
        const auto level = [&](int i) { return TestLevels::kLevels[r.v[i] & 15]; };
        bytes(S::template lookup<TestLevels, 0>(S::low_nibbles(a)), level, "lookup");
        bytes(
            S::template lookup<TestLevels, 128>(S::low_nibbles(a)), [&](int i) { return level(i) + 128; },
            "lookup");
    }

    // Shifts from -7 to 7, with masks of bits that come from the byte itself.
    template <int... kShifts>
    void take_bits(std::integer_sequence<int, kShifts...>) {
        (take_bits<kShifts - 7>(), ...);
    }
    template <int kShift>
    void take_bits() {
        constexpr int kMask = kShift >= 0 ? 0xff << kShift & 0xff : 0xff >> -kShift;
        const Raw r = random_bytes(), other = random_bytes();
        const auto taken = [&](int i) {
            return (kShift >= 0 ? r.v[i] << kShift : r.v[i] >> -kShift) & kMask;
        };
        bytes(S::take_bits(S::load(r.v), kShift, kMask), taken, "take_bits");
        bytes(
            S::or_bits(S::load(other.v), S::load(r.v), kShift, kMask),
            [&](int i) { return other.v[i] | taken(i); }, "or_bits");
    }

    void words_of_codes() {
        const Raw r = random_bytes(), other = random_bytes();
        const Bytes a = S::load(r.v), b = S::load(other.v);
        words(S::even_words(a), [&](int i) { return r.at(2 * i); }, "even_words");
        words(S::odd_words(a), [&](int i) { return r.at(2 * i + 1); }, "odd_words");
        words(S::mul_words(a, b), [&](int i) { return r.word(i) * other.word(i); }, "mul_words");
        int8_t q[32];
        int16_t even[16], odd[16];
        for (int8_t& v : q) v = static_cast<int8_t>(integer(-127, 127));
        S::widen(q, even, odd);
        for (int i = 0; i < 16; ++i) check(even[i] == q[2 * i] && odd[i] == q[2 * i + 1], "widen");
        dots_of_words<1>();
        dots_of_words<2>();
    }

    template <int kSlots>
    void dots_of_words() {
        Raw r[kSlots];
        Bytes codes[kSlots];
        Ints sums[kSlots];
        for (int s = 0; s < kSlots; ++s) {
            r[s] = random_bytes();
            codes[s] = S::load(r[s].v);
            sums[s] = S::zero();
        }
        const int16_t x[2] = {static_cast<int16_t>(integer(-127, 127)),
                              static_cast<int16_t>(integer(-127, 127))};
        for (int times = 1; times <= 2; ++times) {
            S::template dot_words<kSlots>(sums, codes, x);
            for (int s = 0; s < kSlots; ++s) {
                for (int i = 0; i < kLanes; ++i) {
                    const int dot = r[s].word(2 * i) * x[0] + r[s].word(2 * i + 1) * x[1];
                    check(lane(sums[s], i) == times * dot, "dot_words");
                }
            }
        }
    }

    template <int kSlots>
    void dots_of_bytes() {
        Raw r[kSlots];
        Bytes codes[kSlots];
        Ints sums[kSlots];
        const int start = integer(-5000, 5000), shift = integer(0, 7);
        for (int s = 0; s < kSlots; ++s) {
            r[s] = random_bytes();
            codes[s] = S::load(r[s].v);
            sums[s] = s % 2 == 0 ? S::repeat(start << shift) : S::shifted(start, shift);
            for (int i = 0; i < kLanes; ++i) check(lane(sums[s], i) == start << shift, "repeat, shifted");
        }
        int8_t x[4];
        for (int8_t& v : x) v = static_cast<int8_t>(integer(-127, 127));
        S::template dot_bytes<kSlots>(sums, codes, x);
        for (int s = 0; s < kSlots; ++s) {
            for (int i = 0; i < kLanes; ++i) {
                int dot = start << shift;
                for (int k = 0; k < 4; ++k)
                    dot += (S::kSignedDots ? r[s].at(4 * i + k) : r[s].v[4 * i + k]) * x[k];
                check(lane(sums[s], i) == dot, "dot_bytes");
            }
        }
    }

    void dots() {
        const Raw r = random_bytes();
        words(S::double_words(r.v), [&](int i) { return r.at(i / 2); }, "double_words");
        if constexpr (SimdByteDots<S>) {
            dots_of_bytes<1>();
            dots_of_bytes<2>();
            check(S::kWideDots, "kWideDots");  // their codes were of 8 bits
            products_of_dots();
        }
        for (int i = 0; i < kLanes; ++i) check(lane(S::zero(), i) == 0, "zero");
        for (const int max : {15, 31, 63, 255}) {
            const int centre = S::centre(max, (max + 1) / 2);
            check(centre == 0 || std::has_single_bit(static_cast<unsigned>(centre)), "centre");
        }
    }

    void products_of_dots() {
        const Raw r = random_bytes();
        int32_t dots[16], addends[16];
        for (int i = 0; i < 16; ++i) {
            dots[i] = integer(-1 << 18, 1 << 18);
            addends[i] = integer(-1 << 25, 1 << 25);
        }
        Ints a, c;
        std::memcpy(&a, dots, sizeof(a));
        std::memcpy(&c, addends, sizeof(c));
        const Ints wide = S::widen_i8(r.v), product = S::mul_add(a, wide, c);
        for (int i = 0; i < kLanes; ++i) {
            check(lane(wide, i) == r.at(i), "widen_i8");
            check(lane(product, i) == dots[i] * r.at(i) + addends[i], "mul_add");
        }
    }

    void scales() {
        float a[16], b[16], c[16];
        int32_t n[16];
        for (int i = 0; i < 16; ++i) {
            a[i] = number();
            b[i] = number();
            c[i] = number();
            n[i] = static_cast<int32_t>(random_.next()) >> integer(0, 24);
        }
        const Floats x = S::load_floats(a), y = S::load_floats(b), z = S::load_floats(c);
        lanes(S::broadcast(a[0]), [&](int) { return a[0]; }, "broadcast");
        lanes(S::mul(x, y), [&](int i) { return a[i] * b[i]; }, "mul");
        lanes(S::sub(x, y), [&](int i) { return a[i] - b[i]; }, "sub");
        lanes(S::negate(x), [&](int i) { return -a[i]; }, "negate");
        lanes(S::fma(x, y, z), [&](int i) { return std::fmaf(a[i], b[i], c[i]); }, "fma");
        Ints integers;
        std::memcpy(&integers, n, sizeof(integers));
        lanes(S::to_floats(integers), [&](int i) { return static_cast<float>(n[i]); }, "to_floats");
    }

    void stores() {
        const Raw r = random_bytes();
        uint8_t out[kBytes + 2];
        std::memset(out, 7, sizeof(out));
        S::store(out + 1, S::load(r.v));
        check(std::memcmp(out + 1, r.v, kBytes) == 0 && out[0] == 7 && out[kBytes + 1] == 7, "store");
        float f[16], to[kLanes + 2];
        for (float& v : f) v = number();
        std::memset(to, 0, sizeof(to));
        S::store_floats(to + 1, S::load_floats(f));
        check(std::memcmp(to + 1, f, kBytes) == 0 && to[0] == 0 && to[kLanes + 1] == 0, "store_floats");
    }

    void quantizing() {
        float x[32], largest = 0;
        for (float& v : x) {
            v = number();
            largest = std::fmax(largest, std::fabs(v));
        }
        check(same(S::largest(x), largest), "largest");
        const float inverse = 127.0f / largest;
        const int factor = integer(1, 15) << integer(0, 9);
        int8_t q[32];
        typename S::Terms terms;
        const CodeSums found = S::quantize_block(x, inverse, factor, q, &terms);
        int sums[2] = {0, 0};
        for (int i = 0; i < 32; ++i) {
            check(q[i] == static_cast<int>(std::nearbyintf(x[i] * inverse)), "quantize_block's codes");
            sums[i / 16] += q[i];
        }
        check(found.low == sums[0] && found.high == sums[1], "quantize_block's sums");
        if constexpr (std::is_same_v<typename S::Terms, DotTerms>) {
            check(terms.start == -(sums[0] + sums[1]) && terms.low_start == -32 * sums[0] &&
                      terms.high_start == -32 * sums[1],
                  "quantize_block's starts");
            check(terms.shift == exponent_of(factor), "quantize_block's shift");
        }
        if constexpr (requires { terms.multiplier; }) {
            // Two words: columns 0 and 1 of every four, and columns 2 and 3.
            const auto words = [&q](int first, int last, int times) {
                int pairs[2] = {0, 0};
                for (int i = first; i < last; ++i) pairs[i % 4 / 2] += times * q[i];
                return static_cast<int32_t>(static_cast<uint16_t>(pairs[0]) |
                                            static_cast<uint32_t>(static_cast<uint16_t>(pairs[1])) << 16);
            };
            check(terms.start == words(0, 32, -16) && terms.low_start == words(0, 16, -32) &&
                      terms.high_start == words(16, 32, -32),
                  "quantize_block's starts");
            check(terms.multiplier == factor * 0x10001, "quantize_block's multiplier");
        }
        const int at = integer(0, 31);
        x[at] = -std::numeric_limits<float>::infinity();
        check(S::largest(x) == std::numeric_limits<float>::infinity(), "largest of infinity");
        x[(at + 5) % 32] = std::numeric_limits<float>::quiet_NaN();
        check(std::isnan(S::largest(x)), "largest of NaN");
    }
};

}  // namespace
}  // namespace edgellm
