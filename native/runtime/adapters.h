// SPDX-License-Identifier: MIT
// Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): y = W x + sum over adapters of scale * B (A x), for
// the rows of those sequences that ask for it.
//
// A linear stage first makes every A x that it needs, scaled, once for all matrices of one weight; each tile
// of results then gets its rows of B times that. Both products run on the float linear kernels, whose results
// do not depend on the batch, and rows without adapters are not touched.
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
    int weight;             // that it belongs to, by index
};

// A product A x of a stage; its results, as many as the rank, are at `column` of a row of low values.
struct LowProduct {
    size_t adapter;
    ValueRef in;
    AdapterMatrix a;
    size_t column;
    float scale;
};

// What an adapter adds to a matrix of the plan: b times the low values at `column`.
struct Update {
    size_t adapter;
    AdapterMatrix b;
    size_t column;
};

class Adapters {
  public:
    Adapters(const Plan& plan, const Program& program) : plan_(plan), program_(program) {}

    // Declares an adapter; its data must outlive `pack`. Throws ModelError for a weight that is not only
    // multiplied with rows, for matrices that do not fit it, and for formats other than floats.
    void add(const std::vector<UpdateSource>& sources);
    // Packs all matrices. Throws ModelError naming the weight whose update is not finite.
    void pack();

    size_t size() const { return n_adapters_; }
    size_t weight_bytes() const { return n_bytes_; }
    // Low values of one row, for the stage that has most of them.
    size_t low_floats() const { return low_floats_; }

    // Of a plan that has adapters.
    const std::vector<LowProduct>& products(size_t stage) const { return products_[stage]; }
    const std::vector<Update>& updates(int matrix) const { return updates_[static_cast<size_t>(matrix)]; }

  private:
    void add_to_stage(size_t stage, int weight, const UpdateSource& source);
    AdapterMatrix describe(uint32_t type, size_t n_out, size_t n_in, const uint8_t* rows, int weight);
    void pack(AdapterMatrix* matrix);

    const Plan& plan_;
    const Program& program_;
    size_t n_adapters_ = 0, n_bytes_ = 0, low_floats_ = 0;
    std::vector<std::vector<LowProduct>> products_;  // by stage
    std::vector<std::vector<Update>> updates_;       // by matrix of the plan
    Region region_;
};

}  // namespace edgellm
