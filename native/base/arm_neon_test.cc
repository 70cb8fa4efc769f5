// SPDX-License-Identifier: MIT
#include "base/vec_neon.h"
#include "base/vec_test.h"

namespace edgellm {
namespace {

void test_lanes() {
    std::mt19937 random(2);
    for (int turn = 0; turn < 1000; ++turn) {
        Lanes<float> in[4];
        F32 rows[4];
        for (size_t i = 0; i < 4; ++i) {
            for (size_t j = 0; j < 4; ++j) in[i][j] = any_float(random);
            rows[i] = vector_of<F32>(in[i]);
        }
        const Lanes<float> sums[4] = {lanes_of(Vec::fma_lane<0>(rows[0], rows[1], rows[2])),
                                      lanes_of(Vec::fma_lane<1>(rows[0], rows[1], rows[2])),
                                      lanes_of(Vec::fma_lane<2>(rows[0], rows[1], rows[2])),
                                      lanes_of(Vec::fma_lane<3>(rows[0], rows[1], rows[2]))};
        Vec::transpose(rows);
        for (size_t i = 0; i < 4; ++i) {
            Lanes<float> column = lanes_of(rows[i]);
            for (size_t j = 0; j < 4; ++j) {
                check(same_bits(column[j], in[j][i]), "transpose", "wrong lane");
                check(same_bits(sums[i].at[j], std::fma(in[0][j], in[1][i], in[2][j])), "fma_lane",
                      "not rounded once");
            }
        }
    }
}

}  // namespace
}  // namespace edgellm

int main() {
    edgellm::test_lanes();
    return edgellm::test_vocabulary(edgellm::Isa::kNeon);
}
