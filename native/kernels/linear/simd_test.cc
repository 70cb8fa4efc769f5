// SPDX-License-Identifier: MIT
// Each member of each instruction set's vocabulary against scalar code, on the sets that this CPU supports.
// Prints the members that differ and exits 1.
#include <cstdio>

#include "base/arch.h"
#include "base/by_isa.h"

namespace edgellm {

#define EDGELLM_DECLARE_TEST(set, ...) int count_simd_failures##set();
EDGELLM_LINEAR_SETS(EDGELLM_DECLARE_TEST)

namespace {

struct Test {
    Isa isa;
    int (*count_failures)();
};
#define EDGELLM_TEST_ENTRY(set, ...) {Isa::k##set, count_simd_failures##set},
constexpr Test kTests[] = {EDGELLM_LINEAR_SETS(EDGELLM_TEST_ENTRY)};

}  // namespace
}  // namespace edgellm

int main() {
    using namespace edgellm;
    int failures = 0;
    for (const Test& test : kTests) {
        if (!isa_supported(test.isa, detect_cpu())) {
            std::printf("%s: not supported by this CPU\n", isa_name(test.isa));
            continue;
        }
        failures += test.count_failures();
        std::printf("%s: tested\n", isa_name(test.isa));
    }
    return failures != 0;
}
