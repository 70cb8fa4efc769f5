// SPDX-License-Identifier: MIT
// The execution plan of a program: stages with everything resolved to offsets, made once at load.
//
// A stage is work that all threads share, closed by a barrier. Operations that touch one token's row only are
// gathered into row stages. One that feeds linears becomes their prologue; with fewer rows than threads every
// thread runs it for itself into private memory instead of waiting at a barrier.
// Element-wise operations after a linear become its epilogue. So a transformer layer is about six stages.
#pragma once

#include <cstddef>
#include <vector>

#include "formats/formats.h"
#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "program/program.h"
#include "runtime/stages.h"
#include "runtime/values.h"

namespace edgellm {

// One shared buffer: `floats_per_row` floats for each row of the batch, live in stages [first, last].
struct Buffer {
    size_t floats_per_row = 0;
    int first = 0, last = 0;
    size_t offset = 0;  // floats per row into the arena, set when all are placed
};

// A weight matrix to pack: rows [row_first, row_first + n_out) of each of n_experts matrices of a weight.
struct MatrixUse {
    int weight = -1;  // index into Program::weights
    size_t row_first = 0;
    size_t n_experts = 1;
    size_t expert_rows = 0;  // rows of one expert in the source
    PackedMatrix packed;     // without data, which Weights has
    size_t offset = 0;       // bytes into the memory of all matrices, of expert 0, panel 0
    size_t expert_stride = 0;
};

// Angles of one rope table, perhaps divided by factors.
struct AngleSet {
    int table = -1;         // index into Program::tables
    VectorId factors = -1;  // frequencies are divided by them
    size_t offset = 0;      // floats per row into the angles' memory: cos, then sin
    size_t n_pairs = 0;
};

// A bias of attention by the distance between query and key: of its bucket, or ALiBi's.
struct DistanceBias {
    VectorId buckets = -1;  // (n_buckets, n_heads), or -1
    size_t n_buckets = 0, n_heads = 0, max_distance = 0;
    std::vector<float> slopes;  // of ALiBi (n_heads,): a logit falls by them for each token of distance

    bool operator==(const DistanceBias&) const = default;
};

struct PlanOptions {
    size_t n_threads = 1;
    size_t batch = 512;  // most rows of a step
    KvType kv_type = KvType::kF16;
    Isa isa = Isa::kScalar;
    size_t context = 0;  // most tokens of a sequence
};

struct ExecutionPlan {
    PlanOptions options;
    std::vector<Stage> stages;
    std::vector<Buffer> buffers;
    std::vector<MatrixUse> matrices;
    std::vector<int> vectors;     // VectorId -> weight index; decoded to float32 at load
    std::vector<int> embeddings;  // embedding table -> weight index; rows stay in the file's format
    std::vector<AngleSet> angles;
    std::vector<DistanceBias> biases;
    std::vector<AttentionShape> cache_shapes;
    std::vector<size_t> state_offsets;  // per StateDecl, in floats
    size_t state_floats = 0;

    int n_moe = 0;           // routing slots
    size_t max_used = 0;     // most experts per token over all slots
    size_t max_experts = 0;  // most experts over all slots
    // The last stage that writes to a sequence: after it only output rows go on. Attention over what is
    // written, by the layer itself or by later ones that share the cache, comes after it.
    int select_after = -1;
    std::vector<int> selected;               // buffers that live across it
    std::vector<Routing> selected_routings;  // choices of experts that do
    ValueRef hidden;
    int hidden_stage = -1;  // stage that makes `hidden`

    size_t arena_floats_per_row = 0, quant_bytes_per_row = 0, angle_floats_per_row = 0;
    size_t private_bytes = 0;  // per thread, private rows
    size_t private_rows = 1;
    size_t weight_bytes = 0;
    size_t moe_row_bytes = 0;  // per (row, used expert)

    const MatrixUse& matrix(MatrixId id) const { return matrices[static_cast<size_t>(id)]; }
    MatrixUse& matrix(MatrixId id) { return matrices[static_cast<size_t>(id)]; }
};

// Checks the program against the tensors' formats and makes the plan; no weight is read.
// formats: of each weight, in the order of Program::weights. Throws ModelError.
ExecutionPlan make_plan(const Program& program, const std::vector<const FormatInfo*>& formats,
                        const PlanOptions& options);

}  // namespace edgellm
