// SPDX-License-Identifier: MIT
// Every member of the vocabulary of vec.h and every function of vec_math.h against scalar code. Included
// after a vec_*.h by one test for each instruction set.
#pragma once

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <vector>

#include "base/arch.h"
#include "base/half.h"
#include "base/vec_math.h"

namespace edgellm {
namespace {

// Of <limits>: macOS's <cmath> loses INFINITY after Clang's <cfloat>.
constexpr float kLargest = std::numeric_limits<float>::max(), kSmallest = std::numeric_limits<float>::min();

int failures = 0;

void check(bool condition, const char* member, const char* fault) {
    if (condition) return;
    if (++failures <= 20) std::printf("%s: %s\n", member, fault);
}

bool same_bits(float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
}

// One array element for each lane.
template <class T>
struct Lanes {
    alignas(64) T at[kLanes];
    T& operator[](size_t i) { return at[i]; }
};
Lanes<float> lanes_of(F32 v) {
    Lanes<float> out;
    std::memcpy(out.at, &v, sizeof v);
    return out;
}
Lanes<int32_t> lanes_of(I32 v) {
    Lanes<int32_t> out;
    std::memcpy(out.at, &v, sizeof v);
    return out;
}
template <class V, class T>
V vector_of(Lanes<T>& lanes) {
    V v;
    std::memcpy(&v, lanes.at, sizeof v);
    return v;
}

// Floats with zeros, subnormals, large ones, infinities and NaN among them.
float any_float(std::mt19937& random) {
    constexpr float kSpecial[] = {0.0f,   -0.0f,   1.0f, -1.0f,   kLargest, -kLargest, kSmallest,
                                  1e-42f, -1e-42f, 0.5f, 65504.f, INFINITY, -INFINITY, NAN};
    if (random() % 4 == 0) return kSpecial[random() % std::size(kSpecial)];
    return std::ldexp(std::uniform_real_distribution<float>(-1, 1)(random),
                      static_cast<int>(random() % 40) - 20);
}
float finite_float(std::mt19937& random) {
    return std::uniform_real_distribution<float>(-100, 100)(random);
}

void test_memory(std::mt19937& random) {
    // One element past the vector on each side, which must stay as it is.
    float in[kLanes + 3], out[kLanes + 3];
    for (float& v : in) v = any_float(random);
    for (size_t offset = 0; offset < 3; ++offset) {
        std::memset(out, 0x5a, sizeof out);
        float untouched;
        std::memset(&untouched, 0x5a, sizeof untouched);
        store(out + offset, load(in + offset));
        for (size_t i = 0; i < kLanes + 3; ++i) {
            const bool inside = i >= offset && i < offset + kLanes;
            check(same_bits(out[i], inside ? in[i] : untouched), "load, store", "other bits");
        }
    }
    const float x = any_float(random);
    const auto n = static_cast<int32_t>(random());
    Lanes<float> floats = lanes_of(splat(x));
    Lanes<int32_t> ints = lanes_of(splat_int(n));
    Lanes<float> twice = lanes_of(load_twice(in)), swapped = lanes_of(swap_pairs(load(in)));
    F32 hidden = load(in);
    Vec::hide(hidden);
    Lanes<float> shown = lanes_of(hidden);
    for (size_t i = 0; i < kLanes; ++i) {
        check(same_bits(floats[i], x), "splat", "wrong lane");
        check(ints[i] == n, "splat_int", "wrong lane");
        check(same_bits(twice[i], in[i / 2]), "load_twice", "wrong lane");
        check(same_bits(swapped[i], in[i ^ 1]), "swap_pairs", "wrong lane");
        check(same_bits(shown[i], in[i]), "hide", "another value");
    }
    for (size_t count = 1; count <= kLanes; ++count) {
        Lanes<float> part = lanes_of(load_part(in, count, 7.0f)), counted = lanes_of(load_count(in, count));
        std::memset(out, 0x5a, sizeof out);
        store_count(out, load(in), count);
        for (size_t i = 0; i < kLanes; ++i) {
            check(same_bits(part[i], i < count ? in[i] : 7.0f), "load_part", "wrong lane");
            check(same_bits(counted[i], i < count ? in[i] : 0.0f), "load_count", "wrong lane");
            float untouched;
            std::memset(&untouched, 0x5a, sizeof untouched);
            check(same_bits(out[i], i < count ? in[i] : untouched), "store_count", "wrong lane");
        }
    }
}

void test_conversions(std::mt19937& random) {
    // All binary16 values.
    for (uint32_t base = 0; base < 0x10000; base += kLanes) {
        uint16_t halves[kLanes], back[kLanes];
        for (size_t i = 0; i < kLanes; ++i) halves[i] = static_cast<uint16_t>(base + i);
        Lanes<float> floats = lanes_of(load_half(halves));
        store_half(back, load_half(halves));
        for (size_t i = 0; i < kLanes; ++i) {
            const float expected = half_to_float(halves[i]);
            check(same_bits(floats[i], expected), "load_half", "wrong value");
            if (std::isfinite(expected))
                check(back[i] == halves[i], "store_half", "not the inverse of load_half");
        }
    }
    for (int turn = 0; turn < 10000; ++turn) {
        Lanes<float> x;
        Lanes<int32_t> n;
        int8_t bytes[kLanes];
        for (size_t i = 0; i < kLanes; ++i) {
            x[i] = std::ldexp(std::uniform_real_distribution<float>(-1.99f, 1.99f)(random),
                              static_cast<int>(random() % 41) - 25);
            // Between two halves, to be rounded to the even one.
            if (random() % 4 == 0) {
                const auto h = static_cast<uint16_t>(random() % 0x7bff);
                x[i] = 0.5f * (half_to_float(h) + half_to_float(static_cast<uint16_t>(h + 1)));
            }
            if (random() % 16 == 0) x[i] *= 0x1p60f;  // beyond binary16
            n[i] = static_cast<int32_t>(random()) >> random() % 32;
            bytes[i] = static_cast<int8_t>(random());
        }
        x[0] = turn % 2 == 0 ? x[0] : NAN;
        uint16_t halves[kLanes];
        int16_t words[kLanes];
        uint8_t low_bytes[kLanes];
        store_half(halves, vector_of<F32>(x));
        store_int16(words, vector_of<I32>(n));
        store_bytes(low_bytes, vector_of<I32>(n));
        Lanes<float> rounded = lanes_of(round_to_half(vector_of<F32>(x)));
        Lanes<float> floats = lanes_of(load_int8(bytes));
        for (size_t i = 0; i < kLanes; ++i) {
            const bool nan = x[i] != x[i];
            check(nan ? std::isnan(half_to_float(halves[i])) : halves[i] == float_to_half(x[i]), "store_half",
                  "not rounded to nearest even");
            check(words[i] == std::min(std::max(n[i], -32768), 32767), "store_int16", "not saturated");
            check(low_bytes[i] == (n[i] & 0xff), "store_bytes", "wrong byte");
            check(same_bits(rounded[i], half_to_float(float_to_half(x[i]))), "round_to_half", "wrong value");
            check(floats[i] == bytes[i], "load_int8", "wrong value");
        }
    }
}

void test_arithmetic(std::mt19937& random) {
    for (int turn = 0; turn < 10000; ++turn) {
        Lanes<float> a, b, c;
        Lanes<int32_t> sum, x, y;
        for (size_t i = 0; i < kLanes; ++i) {
            a[i] = any_float(random), b[i] = any_float(random), c[i] = any_float(random);
            sum[i] = static_cast<int32_t>(random());
            x[i] = random() % 8 == 0 ? INT32_MIN + 0x8000 : static_cast<int32_t>(random());
            y[i] = random() % 8 == 0 ? INT32_MIN + 0x8000 : static_cast<int32_t>(random());
        }
        const F32 va = vector_of<F32>(a), vb = vector_of<F32>(b), vc = vector_of<F32>(c);
        Lanes<float> highs = lanes_of(max(va, vb)), lows = lanes_of(min(va, vb)),
                     fused = lanes_of(fma(va, vb, vc));
        Lanes<float> clamped = lanes_of(clamp_magnitude(va, 2.0f));
        Lanes<float> bounded = lanes_of(clamp(va, -3.0f, 2.0f)), ratio = lanes_of(quotient(va, vb));
        const I32 below = va < vb;  // of a type of the compiler's own
        Lanes<int32_t> less = lanes_of(below);
        Lanes<float> chosen = lanes_of(select(va < vb, va, vc));
        Lanes<int32_t> chosen_ints = lanes_of(select(va < vb, vector_of<I32>(x), vector_of<I32>(y)));
        Lanes<int32_t> pairs =
            lanes_of(add_pair_products(vector_of<I32>(sum), vector_of<I32>(x), vector_of<I32>(y)));
        for (size_t i = 0; i < kLanes; ++i) {
            check(same_bits(highs[i], a[i] > b[i] ? a[i] : b[i]), "max", "wrong operand");
            check(same_bits(lows[i], a[i] < b[i] ? a[i] : b[i]), "min", "wrong operand");
            volatile float product = a[i] * b[i];
            volatile float rounded_twice = product + c[i];
            check(same_bits(fused[i], std::fma(a[i], b[i], c[i])) || same_bits(fused[i], rounded_twice),
                  "fma", "neither rounded once nor twice");
            check(less[i] == (a[i] < b[i] ? -1 : 0), "<", "wrong mask");
            check(same_bits(chosen[i], a[i] < b[i] ? a[i] : c[i]), "select", "wrong operand");
            check(chosen_ints[i] == (a[i] < b[i] ? x[i] : y[i]), "select", "wrong operand");
            const float above = a[i] > -3.0f ? a[i] : -3.0f;
            check(same_bits(bounded[i], above < 2.0f ? above : 2.0f), "clamp", "wrong value");
            check(same_bits(ratio[i], b[i] == 0 ? 0.0f : a[i] / b[i]), "quotient", "wrong value");
            check(same_bits(clamped[i], a[i] > 2    ? 2
                                        : a[i] < -2 ? -2
                                                    : a[i]),
                  "clamp_magnitude", "wrong value");
            const auto low = [](int32_t v) { return static_cast<int64_t>(static_cast<int16_t>(v)); };
            const auto high = [](int32_t v) { return static_cast<int64_t>(v >> 16); };
            const int64_t exact = sum[i] + low(x[i]) * low(y[i]) + high(x[i]) * high(y[i]);
            check(pairs[i] == static_cast<int32_t>(static_cast<uint64_t>(exact)), "add_pair_products",
                  "wrong sum");
        }
        Lanes<float> tree, rounds;
        float most = -INFINITY;
        for (size_t i = 0; i < kLanes; ++i) {
            tree[i] = finite_float(random);
            rounds[i] = tree[i] * 1000.0f;
            most = std::fmax(most, tree[i]);
        }
        const F32 v = vector_of<F32>(tree);
        Lanes<float> whole = lanes_of(nearest(vector_of<F32>(rounds)));
        Lanes<int32_t> nearest_ints = lanes_of(nearest_int(vector_of<F32>(rounds)));
        Lanes<int32_t> products = lanes_of(nearest_int_product(v, splat(0.5f)));
        for (size_t i = 0; i < kLanes; ++i) {
            check(whole[i] == std::nearbyint(rounds[i]), "nearest", "not the nearest");
            check(nearest_ints[i] == std::nearbyint(rounds[i]), "nearest_int", "not the nearest");
            check(products[i] == std::nearbyint(tree[i] * 0.5f), "nearest_int_product", "not the nearest");
        }
        for (size_t n = kLanes / 2; n > 0; n /= 2)
            for (size_t i = 0; i < n; ++i) tree[i] += tree[i + n];
        check(same_bits(reduce_add(v), tree[0]), "reduce_add", "not the tree of halves");
        check(same_bits(reduce_max(v), most), "reduce_max", "not the maximum");
    }
}

// Relative error of f(x) to expected(x), for x evenly from low to high; values below `least` may be 0.
template <class F, class E>
void test_function(const char* name, F f, E expected, double low, double high, double bound) {
    constexpr int kSteps = 200000;
    double worst = 0;
    for (int step = 0; step < kSteps; step += kLanes) {
        Lanes<float> x;
        for (size_t i = 0; i < kLanes; ++i)
            x[i] = static_cast<float>(low + (high - low) * (step + static_cast<int>(i)) / kSteps);
        Lanes<float> y = lanes_of(f(vector_of<F32>(x)));
        for (size_t i = 0; i < kLanes; ++i) {
            const double exact = expected(static_cast<double>(x[i]));
            if (std::fabs(exact) < kSmallest) continue;
            worst = std::fmax(worst, std::fabs(y[i] - exact) / std::fabs(exact));
        }
    }
    if (worst > bound) std::printf("%s: relative error %g, expected at most %g\n", name, worst, bound);
    failures += worst > bound;
}

void test_functions() {
    constexpr double kUnit = 0x1p-23;
    test_function(
        "exp", [](F32 x) { return exp(x); }, [](double x) { return std::exp(x); }, -87, 88.7, 2 * kUnit);
    test_function(
        "exp_nonpositive", [](F32 x) { return exp_nonpositive(x); }, [](double x) { return std::exp(x); },
        -87, 0, 2 * kUnit);
    test_function(
        "exp2_bounded", [](F32 x) { return exp2_bounded(x); }, [](double x) { return std::exp2(x); }, -126, 1,
        2 * kUnit);
    test_function(
        "tanh", [](F32 x) { return tanh(x); }, [](double x) { return std::tanh(x); }, -20, 20, 4 * kUnit);
    test_function(
        "sigmoid", [](F32 x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, -80, 80,
        4 * kUnit);
    test_function(
        "normal_cdf", [](F32 x) { return normal_cdf(x); },
        [](double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }, -12, 12, 16 * kUnit);
    check(exp(splat(-1000.0f))[0] == 0.0f && std::isinf(exp(splat(1000.0f))[0]) &&
              std::isnan(exp(splat(NAN))[0]),
          "exp", "wrong out of range");
    check(exp_nonpositive(negative_infinity())[0] == 0.0f && std::isnan(exp_nonpositive(splat(NAN))[0]),
          "exp_nonpositive", "wrong out of range");
    check(exp2_bounded_1(-INFINITY) == kSmallest && std::isnan(exp2_bounded_1(NAN)), "exp2_bounded",
          "wrong out of range");
    check(copysign(splat(3.0f), splat(-0.0f))[0] == -3.0f && absolute(splat(-3.0f))[0] == 3.0f,
          "copysign, absolute", "wrong sign");
}

int test_vocabulary(Isa isa) {
    if (!isa_supported(isa, detect_cpu())) {
        std::printf("vectors of %s: not tested, this CPU lacks them\n", isa_name(isa));
        return 0;
    }
    std::mt19937 random(1);
    for (int turn = 0; turn < 100; ++turn) test_memory(random);
    test_conversions(random);
    test_arithmetic(random);
    test_functions();
    if (failures == 0) std::printf("vectors of %s: all members agree with scalar code\n", isa_name(isa));
    return failures != 0;
}

}  // namespace
}  // namespace edgellm
