// SPDX-License-Identifier: MIT
// Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): y = W x + sum over adapters of scale * B (A x), for
// rows of sequences that use adapters.
//
// A linear stage first computes scale * A x, once for all matrices of one weight. B times that is then added
// to each tile of results. Both products run on the float linear kernels, whose results do not depend on the
// batch. Rows without adapters are not touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/memory.h"
#include "runtime/plan.h"

namespace edgellm {

// One weight's update: A (rank, n_in) and B (n_out, rank) in a float format, rows contiguous.
struct UpdateSource {
    std::string weight;
    size_t rank;
    uint32_t a_type, b_type;
    const uint8_t* a;
    const uint8_t* b;
    size_t a_bytes, b_bytes;
    float scale;  // alpha / rank
};

struct AdapterMatrix {
    PackedMatrix packed;    // data is set when all are packed
    const uint8_t* source;  // row 0
    size_t offset;          // bytes into the adapters' memory
    int weight;             // index into Program::weights
};

// A projection scale * A x of a stage: `rank` values from `column` on in a row of lora_a_out.
struct ProjectionA {
    size_t adapter;
    ValueRef in;
    AdapterMatrix a;
    size_t column;
    float scale;
};

// An adapter's addend to the results of a matrix: B times the values at `column` of lora_a_out.
struct UpdateB {
    size_t adapter;
    AdapterMatrix b;
    size_t column;
};

class Adapters {
  public:
    Adapters(const ExecutionPlan& plan, const Program& program) : plan_(plan), program_(program) {}

    // Declares an adapter; its data must outlive `pack`. Throws ModelError for a weight that is not only
    // multiplied with rows, for matrices that do not fit it, and for formats other than floats.
    void add(const std::vector<UpdateSource>& sources);
    // Packs all matrices. Throws ModelError naming the weight whose update is not finite.
    void pack();

    size_t size() const { return n_adapters_; }
    size_t weight_bytes() const { return n_bytes_; }
    // Floats of a row of lora_a_out, for the stage that has most of them.
    size_t lora_a_floats() const { return lora_a_floats_; }

    // Of a plan that has adapters.
    const std::vector<ProjectionA>& projections(size_t stage) const { return projections_[stage]; }
    const std::vector<UpdateB>& updates(MatrixId matrix) const {
        return updates_[static_cast<size_t>(matrix)];
    }

  private:
    void add_to_stage(size_t stage, int weight, const UpdateSource& source);
    AdapterMatrix describe(uint32_t type, size_t n_out, size_t n_in, const uint8_t* rows, int weight);
    void pack(AdapterMatrix* matrix);

    const ExecutionPlan& plan_;
    const Program& program_;
    size_t n_adapters_ = 0, n_bytes_ = 0, lora_a_floats_ = 0;
    std::vector<std::vector<ProjectionA>> projections_;  // by stage
    std::vector<std::vector<UpdateB>> updates_;          // by matrix of the plan
    Region region_;
};

}  // namespace edgellm
