// SPDX-License-Identifier: MIT
// The portable kernels: registers of 64 bytes as plain arrays.
#include <bit>
#include <cmath>

#include "base/half.h"
#include "formats/floats.h"
#define EDGELLM_UNROLL
#include "kernels/linear/generic.h"

namespace edgellm {
namespace {

struct Scalar {
    struct Bytes {
        uint8_t v[64];
    };
    struct Ints {
        int32_t v[16];
    };
    struct Floats {
        float v[16];
    };
    static constexpr int kParts = 1;
    static constexpr bool kSignedDots = false, kWideDots = true;
    static constexpr int centre(int, int offset) { return exact_centre(offset); }
    using Terms = DotTerms;
    static constexpr bool tables_scales() { return true; }

    template <class F>
    EDGELLM_INLINE static Floats floats(F f) {
        Floats r;
        for (int i = 0; i < 16; ++i) r.v[i] = f(i);
        return r;
    }
    template <class F>
    EDGELLM_INLINE static Bytes bytes(F f) {
        Bytes r;
        for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(f(i));
        return r;
    }

    static Floats load_floats(const float* p) {
        return floats([p](int i) { return p[i]; });
    }
    static void store_floats(float* p, const Floats& a) { std::memcpy(p, a.v, 64); }
    static Floats load_halves(const uint8_t* p) {
        return floats([p](int i) { return load_half(p + 2 * i); });
    }
    static Floats load_bfloats(const uint8_t* p) {
        return floats([p](int i) { return bf16_to_float(load_u16(p + 2 * i)); });
    }
    static Floats load_u8(const uint8_t* p) {
        return floats([p](int i) { return static_cast<float>(p[i]); });
    }
    static Floats load_i8(const uint8_t* p) {
        return floats([p](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
    }
    static Floats load_e4m3(const uint8_t* p) {
        return floats([p](int i) { return half_to_float(static_cast<uint16_t>(p[i] << 7)); });
    }
    static Floats load_exponents(const uint8_t* p) {
        return floats([p](int i) { return std::bit_cast<float>(uint32_t{p[i]} << 23) * 0.5f; });
    }
    static Floats broadcast(float a) {
        return floats([a](int) { return a; });
    }
    static Floats mul(const Floats& a, const Floats& b) {
        return floats([&](int i) { return a.v[i] * b.v[i]; });
    }
    static Floats sub(const Floats& a, const Floats& b) {
        return floats([&](int i) { return a.v[i] - b.v[i]; });
    }
    static Floats negate(const Floats& a) {
        return floats([&](int i) { return -a.v[i]; });
    }
    static Floats fma(const Floats& a, const Floats& b, const Floats& c) {
        return floats([&](int i) { return std::fmaf(a.v[i], b.v[i], c.v[i]); });
    }
    static Floats to_floats(const Ints& a) {
        return floats([&](int i) { return static_cast<float>(a.v[i]); });
    }

    static Bytes load(const uint8_t* p) {
        Bytes r;
        std::memcpy(r.v, p, 64);
        return r;
    }
    static void store(uint8_t* p, const Bytes& a) { std::memcpy(p, a.v, 64); }
    static Bytes low_nibbles(const Bytes& a) {
        return bytes([&](int i) { return a.v[i] & 15; });
    }
    static Bytes high_nibbles(const Bytes& a) {
        return bytes([&](int i) { return a.v[i] >> 4; });
    }
    static Bytes flip_sign(const Bytes& a) {
        return bytes([&](int i) { return a.v[i] ^ 0x80; });
    }
    // a << shift & mask; a negative shift goes right.
    static Bytes take_bits(const Bytes& a, int shift, int mask) {
        return bytes([&](int i) { return (shift >= 0 ? a.v[i] << shift : a.v[i] >> -shift) & mask; });
    }
    // a | (b << shift & mask).
    static Bytes or_bits(const Bytes& a, const Bytes& b, int shift, int mask) {
        const Bytes bits = take_bits(b, shift, mask);
        return bytes([&](int i) { return a.v[i] | bits.v[i]; });
    }
    template <class F, int offset>
    static Bytes lookup(const Bytes& a) {
        return bytes([&](int i) { return F::kLevels[a.v[i]] + offset; });
    }
    // Signed bytes of rows as words, each twice.
    static Bytes double_words(const uint8_t* p) {
        Bytes r;
        for (int i = 0; i < 32; ++i) {
            const auto w = static_cast<int16_t>(static_cast<int8_t>(p[i / 2]));
            std::memcpy(r.v + 2 * i, &w, 2);
        }
        return r;
    }
    static Ints zero() { return {}; }
    static Ints repeat(int32_t v) {
        Ints r;
        std::fill_n(r.v, 16, v);
        return r;
    }
    static Ints shifted(int32_t v, int shift) { return repeat(v << shift); }
    static Ints shifted(const Ints& a, int32_t shift) {
        Ints r;
        for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] << shift;
        return r;
    }
    static Ints widen_i8(const uint8_t* p) {
        Ints r;
        for (int i = 0; i < 16; ++i) r.v[i] = static_cast<int8_t>(p[i]);
        return r;
    }
    static Ints mul_add(const Ints& a, const Ints& b, const Ints& c) {
        Ints r;
        for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] * b.v[i] + c.v[i];
        return r;
    }
    template <int kSlots>
    static void dot_bytes(Ints (&sum)[kSlots], const Bytes (&codes)[kSlots], const int8_t* x) {
        for (int slot = 0; slot < kSlots; ++slot) {
            for (int i = 0; i < 64; ++i) sum[slot].v[i / 4] += codes[slot].v[i] * x[i % 4];
        }
    }

    static float largest(const float* x) {
        uint32_t v = 0;  // magnitudes compare as integers as they do as floats, NaN above infinity
        for (int i = 0; i < 32; ++i) v = std::max(v, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
        return std::bit_cast<float>(v);
    }
    static CodeSums quantize_block(const float* x, float inverse, int factor, int8_t* q, DotTerms* terms) {
        int sum[2] = {0, 0};
        for (int i = 0; i < 32; ++i) {
            q[i] = static_cast<int8_t>(std::nearbyintf(x[i] * inverse));
            sum[i / 16] += q[i];
        }
        const CodeSums sums{sum[0], sum[1]};
        terms->set(sums, factor);
        return sums;
    }
};

}  // namespace

EDGELLM_LINEAR_KERNELS(Scalar, WideEngine<Scalar, 1, TileSizes<1>, TileSizes<4, 1>, 1>)

}  // namespace edgellm
