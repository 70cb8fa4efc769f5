// SPDX-License-Identifier: MIT
// The planner, which plan.h's make_plan runs; each plan*.cc lowers one sort of operation.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/plan.h"

namespace edgellm {

[[noreturn]] void fail(const Op& op, const std::string& what);
void require(bool ok, const Op& op, const std::string& what);
// "op NAME: WHAT is FOUND, expected EXPECTED" unless the two are equal.
void expect(const Op& op, const std::string& what, size_t found, size_t expected);
Activation parse_activation(const Op& op, const std::string& name);

// Work to place: an op, or a part of one.
enum class Part : uint8_t { kWhole, kKvWrite, kAttend, kRoute, kExperts };

struct Node {
    int op;
    Part part;
    bool done = false;
};

class Planner {
  public:
    Planner(const Program& program, const std::vector<const FormatInfo*>& formats, const PlanOptions& options)
        : p_(program), formats_(formats), kernels_(linear_kernels(options.isa)) {
        plan_.options = options;
    }

    ExecutionPlan make();

  private:
    // ---- the program ----

    const Op& op(int i) const { return p_.ops[static_cast<size_t>(i)]; }
    const WeightDecl& decl(int weight) const { return p_.weights[static_cast<size_t>(weight)]; }
    const FormatInfo& format(int weight) const { return *formats_[static_cast<size_t>(weight)]; }
    size_t width_of(int value) const { return static_cast<size_t>(op(value).width); }
    bool is_output(int value) const { return value == p_.hidden || value == p_.logits; }
    bool is_column_slice(const Op& o) const { return o.kind == OpKind::kSlice && o.integer("groups") == 1; }
    void prepare_state();
    void count_uses();
    // A linear that only column slices read is planned as one linear per slice, over weight rows: nothing is
    // copied, and fused checkpoints (one QKV or gate/up tensor) run like separate ones.
    bool splits_into_slices(int i) const;
    void make_nodes();
    // The linear that computes value i by rows of its weight, or -1.
    int linear_source(int i) const;
    bool is_linear(const Node& n) const;

    // ---- stages, level by level ----

    bool ready(const Node& n) const;
    static bool row_local(const Node& n, OpKind kind);
    void schedule();
    // Row-local work that is ready, and work that becomes ready by it; returns the operations for a stage.
    std::vector<RowOp> place_ready_rows();
    // The linears that are ready, after their prologue `ops`; false if there are none.
    bool place_ready_linears(std::vector<RowOp>* ops);
    void place_ready_own_stages();
    size_t n_waiting() const;
    void mark_done(int value);
    int stage_index() const { return static_cast<int>(plan_.stages.size()); }

    // ---- values and vectors ----

    ValueRef new_value(int value);
    // The value for reading in the stage under construction.
    ValueRef use(int value);
    VectorId vector(const Op& o, std::string_view role) { return vector_of(o.weight(role)); }
    VectorId vector_of(int weight);
    size_t vector_size(VectorId id) const;
    // An optional vector of `n` values, or of one where `scalar` is given.
    VectorId sized_vector(const Op& o, std::string_view role, size_t n, bool* scalar);
    size_t positive(const Op& o, std::string_view attr) const;

    // ---- row-local operations (plan_rows.cc) ----

    void place_row(const Node& n, std::vector<RowOp>* ops);
    void place_view(int i);
    // First column and number of columns of a slice of its input.
    std::pair<size_t, size_t> column_slice(int i) const;
    RowOp row_op(const Op& o, size_t width);
    // The planned operations, all attributes checked.
    AffineOp affine_op(const Op& o, size_t width);
    GluOp glu_op(const Op& o) const;
    ActivationOp activation_op(const Op& o) const;
    SoftcapOp softcap_op(const Op& o) const;
    SliceOp slice_op(const Op& o, size_t width) const;
    ConcatOp concat_op(const Op& o, size_t width) const;
    RepeatOp repeat_op(const Op& o, size_t width) const;
    EmbedOp embed_op(const Op& o, size_t width);
    NormOp norm_op(const Op& o, size_t width);
    RopeOp rope_op(const Op& o, size_t width);
    size_t angle_set(int table, VectorId factors);
    void place_kv_write(int i, std::vector<RowOp>* ops);
    void place_route(int i, std::vector<RowOp>* ops);

    // ---- linears (plan_linear.cc) ----

    void place_linears(const std::vector<Node*>& ready_linears, LinearStage* stage);
    LinearTask make_linear(const Node& n, const std::vector<Node*>& ready_linears,
                           const std::vector<int>& same_stage, int* value);
    // One linear for each group, from a column range of the input to one of the output.
    void place_groups(int i, LinearStage* stage);
    MatrixId make_linear_matrix(int value, const Op& linear);
    // Rows [first, first + n) of the weight that compute `value`.
    std::pair<size_t, size_t> weight_rows(int value) const;
    MatrixId new_matrix(const Op& o, int weight, size_t row_first, size_t n_out, size_t n_in,
                        size_t n_experts = 1, size_t expert_rows = 0);
    // Fuses a gate/up pair into one task if `n` is one half of it and the other is ready too. Returns the
    // value that the task makes.
    int fuse_glu(const Node& n, const std::vector<Node*>& ready_linears, LinearTask* task);
    // Takes element-wise operations that alone read `value` into the epilogue, while their other operand is
    // made. Returns the last value.
    int absorb_epilogue(int value, const std::vector<int>& same_stage, std::vector<Epilogue>* epilogue);
    // True with `epilogue` set if `next` can follow `value` in its epilogue.
    bool make_epilogue(int value, int next, const std::vector<int>& same_stage, Epilogue* epilogue);
    int quant_slot(const ValueRef& value, LinearStage* stage);

    // ---- attention, experts, recurrent state (plan_stages.cc) ----

    void place_own_stage(int i);
    AttentionStage attention_stage(int i);
    // The plan's bias by distance of an attention op, or -1.
    int distance_bias(const Op& o, const AttentionStage& a);
    // The plan's bias that equals `bias`, or a new one.
    int bias_index(DistanceBias bias);
    // The cache of an attention op. An encoder's (cache=-1) keeps nothing between steps: its layers take
    // turns with the same blocks, which the step's own tokens fill.
    int cache_index(const Op& o);
    int encoder_cache(const Op& o);
    MoeStage moe_stage(int i);
    void moe_matrices(const Op& o, MoeStage* m);
    // A matrix of the experts' first product: rows [first, first + n_ff) of each expert's `rows`.
    MatrixId moe_in_matrix(const Op& o, const MoeStage& m, int weight, size_t first, size_t rows);
    Routing make_routing(const Op& o);
    ShortConvStage short_conv_stage(int i);
    GatedDeltaStage gated_delta_stage(int i);
    SsmStage ssm_stage(int i);
    // Offset in a sequence's state, in floats, of an op with n state values.
    size_t state_offset(const Op& o, size_t n) const;

    const Program& p_;
    const std::vector<const FormatInfo*>& formats_;
    const LinearKernels& kernels_;
    ExecutionPlan plan_;
    std::vector<std::vector<int>> uses_;
    std::vector<ValueRef> refs_;
    std::vector<Node> nodes_;
    std::vector<bool> made_;
    std::vector<bool> written_;
    std::map<int, int> moe_slots_;
};

}  // namespace edgellm
