// SPDX-License-Identifier: MIT
// Vocabulary of an instruction set for the linear kernels: a type S of static functions over one register.
// 64 bytes (16 rows x 4 columns) are S::kParts registers; a register has kLanes = 16 / kParts lanes of 32
// bits, a row each. simd_test.h holds each member against scalar code.
#pragma once

#include <concepts>
#include <cstdint>
namespace edgellm {

// Stands for a format in the concept.
struct AnyLevels {
    static constexpr int8_t kLevels[16] = {};
};

template <class S>
concept SimdRegisters = requires {
    typename S::Bytes;   // codes of kLanes rows x 4 columns, or their 16-bit words for 2 columns
    typename S::Ints;    // a 32-bit sum for each row
    typename S::Floats;  // a float for each row
    { S::kParts } -> std::convertible_to<int>;
};

// Loads: kLanes values, one for each row, from any address.
template <class S>
concept SimdLoads = SimdRegisters<S> && requires(const uint8_t* p, const float* f) {
    { S::load(p) } -> std::same_as<typename S::Bytes>;           // as many bytes as a register has
    { S::load_floats(f) } -> std::same_as<typename S::Floats>;   // float32
    { S::load_halves(p) } -> std::same_as<typename S::Floats>;   // binary16
    { S::load_bfloats(p) } -> std::same_as<typename S::Floats>;  // bfloat16
    { S::load_u8(p) } -> std::same_as<typename S::Floats>;       // unsigned bytes
    { S::load_i8(p) } -> std::same_as<typename S::Floats>;       // signed bytes
    { S::load_e4m3(p) } -> std::same_as<typename S::Floats>;     // bytes 0eeeemmm of E4M3, times 2^-8
    {
        S::load_exponents(p)
    } -> std::same_as<typename S::Floats>;  // bytes e as 2^(e - 128); 0 where subnormal
};

// Unpacking of codes, byte by byte.
template <class S>
concept SimdCodes = SimdRegisters<S> && requires(const typename S::Bytes& a, const typename S::Bytes& b) {
    { S::low_nibbles(a) } -> std::same_as<typename S::Bytes>;        // a & 15
    { S::high_nibbles(a) } -> std::same_as<typename S::Bytes>;       // a >> 4
    { S::flip_sign(a) } -> std::same_as<typename S::Bytes>;          // a ^ 128
    { S::take_bits(a, 1, 16) } -> std::same_as<typename S::Bytes>;   // a << shift & mask; shift < 0: right
    { S::or_bits(a, b, 1, 16) } -> std::same_as<typename S::Bytes>;  // a | (b << shift & mask)
};

// Dots: sums of products in 32 bits, exact.
template <class S>
concept SimdDots = SimdRegisters<S> && requires(const uint8_t* p) {
    { S::kSignedDots } -> std::convertible_to<bool>;  // dots of bytes take signed codes
    { S::kWideDots } -> std::convertible_to<bool>;    // dots of bytes have room for codes of 8 bits
    {
        S::centre(15, 8)
    } -> std::convertible_to<int>;  // zero point that accumulators start with, for unsigned
                                    // codes up to a largest one and their offset; or 0
    { S::zero() } -> std::same_as<typename S::Ints>;
    { S::double_words(p) } -> std::same_as<typename S::Bytes>;  // a signed byte for each row, as two words
};

// Sets that multiply some codes as words of 16 bits.
template <class S>
concept SimdWordDots =
    SimdDots<S> && requires(typename S::Ints (&sum)[1], const typename S::Bytes (&codes)[1],
                            const typename S::Bytes& a, const int8_t* q, const int16_t* words, int16_t* to) {
        { S::even_words(a) } -> std::same_as<typename S::Bytes>;    // signed bytes 0 and 2 of each lane
        { S::odd_words(a) } -> std::same_as<typename S::Bytes>;     // signed bytes 1 and 3 of each lane
        { S::mul_words(a, a) } -> std::same_as<typename S::Bytes>;  // low 16 bits of products
        { S::widen(q, to, to) } -> std::same_as<void>;  // 32 codes: the even ones, then the odd ones
        {
            S::template dot_words<1>(sum, codes, words)
        } -> std::same_as<void>;  // + codes * words[0..1] of each row
    };

// Sets whose dots of bytes go straight to 32 bits (WideEngine).
template <class S>
concept SimdByteDots =
    SimdDots<S> && requires(typename S::Ints (&sum)[1], const typename S::Bytes (&codes)[1], const int8_t* x,
                            const typename S::Ints& n, const uint8_t* p) {
        { S::repeat(1) } -> std::same_as<typename S::Ints>;                 // one value in all lanes
        { S::shifted(1, 4) } -> std::same_as<typename S::Ints>;             // value << shift in all lanes
        { S::template dot_bytes<1>(sum, codes, x) } -> std::same_as<void>;  // + codes * x[0..3] of each row
        { S::widen_i8(p) } -> std::same_as<typename S::Ints>;               // a signed byte for each row
        { S::mul_add(n, n, n) } -> std::same_as<typename S::Ints>;          // a * b + c
    };

// Scaling of sums.
template <class S>
concept SimdScales = SimdRegisters<S> && requires(const typename S::Floats& a, const typename S::Ints& n) {
    { S::broadcast(1.0f) } -> std::same_as<typename S::Floats>;
    { S::mul(a, a) } -> std::same_as<typename S::Floats>;
    { S::sub(a, a) } -> std::same_as<typename S::Floats>;
    { S::negate(a) } -> std::same_as<typename S::Floats>;
    { S::fma(a, a, a) } -> std::same_as<typename S::Floats>;  // a * b + c, rounded once
    { S::to_floats(n) } -> std::same_as<typename S::Floats>;  // nearest floats
};

template <class S>
concept SimdStores = SimdRegisters<S> &&
                     requires(uint8_t* p, float* f, const typename S::Bytes& a, const typename S::Floats& x) {
                         { S::store(p, a) } -> std::same_as<void>;
                         { S::store_floats(f, x) } -> std::same_as<void>;
                     };

// Quantizing of activations, 32 values at a time.
template <class S>
concept SimdQuantizes = requires(const float* x, int8_t* q, typename S::Terms* terms) {
    // S::Terms: further terms of a block (QuantTerms::extra).
    { S::largest(x) } -> std::same_as<float>;  // largest magnitude; NaN counts as more than infinity
    // Writes codes, x * inverse rounded to even, and the terms for a factor. Returns the codes' sums
    // (CodeSums).
    { S::quantize_block(x, 1.0f, 1, q, terms).low } -> std::convertible_to<int>;
    { S::quantize_block(x, 1.0f, 1, q, terms).high } -> std::convertible_to<int>;
};

template <class S>
concept LinearSimd = SimdLoads<S> && SimdCodes<S> && SimdDots<S> && SimdScales<S> && SimdStores<S> &&
                     SimdQuantizes<S> && requires(const typename S::Bytes& a) {
                         // Nibbles through a format's table of levels, an offset added.
                         { S::template lookup<AnyLevels, 0>(a) } -> std::same_as<typename S::Bytes>;
                     };

}  // namespace edgellm
