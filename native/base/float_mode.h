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

// While it lives, its thread rounds to nearest, keeps subnormal numbers and traps nothing; then the thread's
// own mode comes back.
class FloatMode {
  public:
    FloatMode(const FloatMode&) = delete;
    FloatMode& operator=(const FloatMode&) = delete;

#if defined(__x86_64__) || defined(_M_X64)
    FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(kMxcsr); }
    ~FloatMode() { _mm_setcsr(saved_); }

  private:
    static constexpr unsigned kMxcsr = 0x1f80;  // all exceptions masked, all else zero
    unsigned saved_;
#elif defined(__aarch64__)
    FloatMode() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(saved_)::"memory");
        __asm__ volatile("msr fpcr, %0" ::"r"(uint64_t{0}) : "memory");
    }
    ~FloatMode() { __asm__ volatile("msr fpcr, %0" ::"r"(saved_) : "memory"); }

  private:
    uint64_t saved_;
#else
    FloatMode() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~FloatMode() { std::fesetenv(&saved_); }

  private:
    std::fenv_t saved_;
#endif
};

}  // namespace edgellm
