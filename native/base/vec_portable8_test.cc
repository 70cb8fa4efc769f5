// SPDX-License-Identifier: MIT
#include "base/vec_portable8.h"

#include "base/vec_test.h"

int main() {
    return edgellm::test_vocabulary(edgellm::Isa::kScalar);
}
