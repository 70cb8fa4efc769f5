// SPDX-License-Identifier: MIT
// The plan of a program: stages with everything resolved to offsets, made once at load.
//
// A stage is work that all threads share, closed by a barrier. Operations that touch one token's row only are
// gathered into row programs; where a row program feeds linears it becomes their prologue, and with fewer
// rows than threads every thread runs it for itself into private memory instead of waiting at a barrier.
// Element-wise operations after a linear become its epilogue. So a transformer layer is about six stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/rows/rows.h"
#include "kernels/state/state.h"
#include "program/program.h"

namespace edgellm {

// Where a value's rows are: shared memory (row stride ld floats), or the thread's own while it runs a
// prologue privately.
struct ValueRef {
    int buffer = -1;    // index into Plan::buffers; -1: none; kLogitsBuffer: the caller's array
    size_t column = 0;  // first column in the buffer's rows
    size_t width = 0;
    size_t offset = 0,
           ld = 0;  // floats from the arena's start to row 0, and from row to row; set when placed
    ptrdiff_t private_offset = -1;  // floats into the thread's private memory, row 0; -1: always shared
};
constexpr int kLogitsBuffer = -2;

// One shared buffer: `floats_per_row` floats for each row of the batch, live in stages [first, last].
struct Buffer {
    size_t floats_per_row = 0;
    int first = 0, last = 0;
    size_t offset = 0;  // floats per row into the arena, set when all are placed
};

// A weight decoded to float32 at load: index into Plan::vectors.
using VectorId = int;

enum class RowOpKind : uint8_t {
    kEmbed,
    kNorm,
    kAffine,
    kRope,
    kGlu,
    kActivation,
    kAdd,
    kMul,
    kSoftcap,
    kSlice,
    kConcat,
    kRepeat,
    kKvWrite,
    kRoute,
    kQuantize,
    kExport,
};

enum class EmbedSource : uint8_t { kToken, kPosition, kFirst };
enum class Gating : uint8_t { kSoftmax, kSigmoid, kSoftmaxChosen };

// How a router's logits become chosen experts and their weights.
struct Routing {
    uint32_t n_experts = 0, n_used = 0, n_groups = 1, n_groups_used = 1;
    Gating gating = Gating::kSoftmax;
    bool normalize = false, group_top2 = true;
    float factor = 1.0f;
    VectorId selection_bias = -1;
    int slot = 0;  // which moe op: its ids and weights in the batch state
};

// One operation on one row. Fields that a kind does not use stay at their defaults.
struct RowOp {
    RowOpKind kind;
    ValueRef a, b, out;
    VectorId weight = -1, bias = -1;
    NormKind norm = NormKind::kRms;
    Activation fn = Activation::kSilu;
    RopeKind rope = RopeKind::kNeox;
    EmbedSource source = EmbedSource::kToken;
    size_t groups = 1;
    float eps = 0, factor = 1, cap = 0, limit = 0, alpha = 1;
    bool per_row = false, weight_scalar = false, bias_scalar = false;
    size_t start = 0, size = 0, times = 1;  // slice, concat, repeat
    bool repeat_a = false, repeat_b = false, interleave = true;
    int index = -1;  // rope: angle set; embed: embedding table; kv write: cache
    Routing routing;
};

enum class EpilogueKind : uint8_t { kAffine, kActivation, kSoftcap, kAdd, kMul };

struct Epilogue {
    EpilogueKind kind;
    ValueRef operand;  // kAdd, kMul
    VectorId weight = -1, bias = -1;
    bool weight_scalar = false, bias_scalar = false;
    float factor = 1, cap = 0;
    Activation fn = Activation::kSilu;
};

// A weight matrix to pack: rows [row_first, row_first + n_out) of each of n_experts matrices of a weight.
struct MatrixUse {
    int weight = -1;  // index into Program::weights
    size_t row_first = 0;
    size_t n_experts = 1;
    size_t expert_rows = 0;  // rows of one expert in the source
    PackedMatrix packed;     // data is set at load
    size_t offset = 0;       // bytes into the weight arena, of expert 0, panel 0
    size_t expert_stride = 0;
};

struct LinearTask {
    ValueRef in, out;
    int matrix = -1;  // index into Plan::matrices
    int up = -1;      // the second matrix of a fused gate/up pair, or -1
    VectorId bias = -1, up_bias = -1;
    Activation glu = Activation::kSilu;
    float limit = 0, alpha = 1;
    int quant = -1;  // index into the stage's quant slots; -1: float input
    std::vector<Epilogue> epilogue;
};

// A value quantized for this stage, shared or private.
struct QuantSlot {
    ValueRef value;
    size_t n_in = 0;
    size_t offset = 0;          // bytes per row into the quant arena
    size_t private_offset = 0;  // bytes into private memory
};

struct MoeStage {
    ValueRef x, out;
    Routing routing;
    size_t width = 0, n_ff = 0;
    int gate = -1, up = -1, down = -1;  // matrices; gate == -1: activation(up x) without a gate
    VectorId gate_bias = -1, up_bias = -1, down_bias = -1;
    Activation fn = Activation::kSilu;
    float limit = 0, alpha = 1;
};

struct AttendStage {
    ValueRef q, out;
    AttentionShape shape;
    VectorId sinks = -1;
    int cache = 0;
    bool causal = true;
};

struct StateStage {
    OpKind kind = OpKind::kShortConv;
    std::vector<ValueRef> ins;
    ValueRef out;
    size_t state_offset = 0;  // floats into a sequence's state
    VectorId weight = -1, bias = -1, a = -1, d = -1, dt_bias = -1;
    size_t taps = 0, n_heads = 0, n_key_heads = 0, key_dim = 0, value_dim = 0;
    float scale = 1;
    bool silu = false, tiled = false;
};

enum class StageKind : uint8_t { kRows, kLinear, kAttend, kMoe, kState };

struct Stage {
    StageKind kind;
    std::vector<RowOp> rows;  // kRows: the work; kLinear: the prologue
    std::vector<LinearTask> linears;
    std::vector<QuantSlot> quants;
    AttendStage attend;
    MoeStage moe;
    StateStage state;
};

struct AngleSet {
    int table = -1;
    VectorId factors = -1;
    size_t offset = 0;  // floats per row into the angle arena: cos, then sin
    size_t n_pairs = 0;
};

struct PlanOptions {
    size_t n_threads = 1;
    size_t batch = 512;  // most rows of a step
    KvType kv_type = KvType::kF16;
    Isa isa = Isa::kScalar;
};

struct Plan {
    PlanOptions options;
    std::vector<Stage> stages;
    std::vector<Buffer> buffers;
    std::vector<MatrixUse> matrices;
    std::vector<int> vectors;     // VectorId -> weight index; decoded to float32 at load
    std::vector<int> embeddings;  // embedding table -> weight index; rows stay in the file's format
    std::vector<AngleSet> angles;
    std::vector<AttentionShape> cache_shapes;
    std::vector<size_t> state_offsets;  // per StateDecl, in floats
    size_t state_floats = 0;

    int n_moe = 0;              // routing slots
    size_t max_used = 0;        // most experts per token over all slots
    int select_after = -1;      // stage after which only the rows whose outputs are asked for go on
    std::vector<int> selected;  // buffers that live across it
    ValueRef hidden;
    int hidden_stage = -1;  // stage that makes `hidden`

    size_t arena_floats_per_row = 0, quant_bytes_per_row = 0, angle_floats_per_row = 0;
    size_t private_bytes = 0;  // per thread, private rows
    size_t private_rows = 1;
    size_t weight_bytes = 0;
    size_t moe_row_bytes = 0;  // per (row, used expert)
};

// Checks the program against the tensors' formats and makes the plan; nothing is allocated for weights yet.
// `types`: the format of each weight, in the order of Program::weights. Throws ModelError.
Plan make_plan(const Program& program, const std::vector<uint32_t>& types, const PlanOptions& options);

}  // namespace edgellm
