// SPDX-License-Identifier: MIT
// Operations on one token's row, gathered into row stages and into the prologues of linear stages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rows/rows.h"
#include "runtime/values.h"

namespace edgellm {

enum class RowOpKind : uint8_t {
    kEmbed,
    kNorm,
    kAffine,
    kRope,
    kPositionScale,
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
    kExport,  // from a thread's private memory to the shared value
};

enum class EmbedSource : uint8_t { kToken, kPosition, kFirst, kSegment };
enum class Gating : uint8_t { kSoftmax, kSigmoid, kSoftmaxChosen };

// Parameters of a router, which chooses each token's experts and their weights from logits.
struct Routing {
    uint32_t n_experts = 0, n_used = 0, n_groups = 1, n_groups_used = 1;
    Gating gating = Gating::kSoftmax;
    bool normalize = false, group_top2 = true;
    float factor = 1.0f;
    VectorId selection_bias = -1, expert_scale = -1;
    int slot = 0;  // the moe op's number: its results in Router
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
    size_t start = 0, size = 0, times = 1;  // slice, concat, repeat; position scale: size is its length
    bool repeat_a = false, repeat_b = false, interleave = true;
    int separator = -1;  // embed: the token id that ends the first segment
    int index = -1;      // rope: angle set; embed: embedding table; kv write: cache; quantize: quant slot
    Routing routing;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        fn(a);
        fn(b);
        fn(out);
    }
};

}  // namespace edgellm
