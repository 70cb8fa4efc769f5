// SPDX-License-Identifier: MIT
#include <cstring>

#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Scalar {
    using Bytes = uint64_t;
    using Ints = int32_t;
    using Floats = float;
    static constexpr int kSums = 8, kMacs = 1, kFloatMacs = 1;

    static Bytes load(const uint8_t* p) {
        Bytes v;
        std::memcpy(&v, p, sizeof(v));
        return v;
    }
    static Bytes bit_or(Bytes a, Bytes b) { return a | b; }
    static uint64_t first(Bytes a) { return a; }
    static Ints dot(Ints sum, Bytes w, Bytes x) {
        return sum + static_cast<int8_t>(w) * static_cast<int8_t>(x);
    }
    static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+m"(v));
    }
};

}  // namespace

extern const LimitKernels kLimitsScalar;
const LimitKernels kLimitsScalar = make_limits<Scalar>();

}  // namespace edgellm
