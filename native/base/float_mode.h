// SPDX-License-Identifier: MIT
// The floating-point mode that the engine computes in, whatever mode its caller's thread is in.
//
// Another library of the process may have set flush-to-zero or another rounding (code built with -ffast-math
// does so when it is loaded): half-precision subnormal scales would then decode to zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

namespace edgellm {

// The word that controls a thread's floating-point unit: MXCSR, FPCR, or where neither is known the rounding.
#if defined(__x86_64__) || defined(_M_X64)

constexpr uint64_t kEngineFloats = 0x1f80;    // all exceptions masked, nothing flushed, to nearest
constexpr uint64_t kFlushingFloats = 0xffc0;  // FTZ, DAZ, towards zero
inline uint64_t float_control() {
    return _mm_getcsr() & ~0x3fu;  // without the sticky flags
}
inline void set_float_control(uint64_t word) {
    _mm_setcsr(static_cast<unsigned>(word));
}

#elif defined(__aarch64__)

constexpr uint64_t kEngineFloats = 0;
constexpr uint64_t kFlushingFloats = uint64_t{7} << 22;  // FZ, towards zero
inline uint64_t float_control() {
    uint64_t word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word)::"memory");
    return word;
}
inline void set_float_control(uint64_t word) {
    __asm__ volatile("msr fpcr, %0" ::"r"(word) : "memory");
}

#else

constexpr uint64_t kEngineFloats = FE_TONEAREST;
constexpr uint64_t kFlushingFloats = FE_TOWARDZERO;
inline uint64_t float_control() {
    return static_cast<uint64_t>(std::fegetround());
}
inline void set_float_control(uint64_t word) {
    std::fesetround(static_cast<int>(word));
}

#endif

// While it lives, its thread rounds to nearest and keeps subnormal numbers; then the thread's own mode comes
// back.
class FloatMode {
  public:
    FloatMode() : saved_(float_control()) { set_float_control(kEngineFloats); }
    ~FloatMode() { set_float_control(saved_); }
    FloatMode(const FloatMode&) = delete;
    FloatMode& operator=(const FloatMode&) = delete;

  private:
    uint64_t saved_;
};

}  // namespace edgellm
