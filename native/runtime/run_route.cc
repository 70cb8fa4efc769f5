// SPDX-License-Identifier: MIT
#include "runtime/run_route.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgellm {
namespace {

// Score of an expert group: that of its best expert, or the sum of its best two.
float group_score(const float* score, size_t n, bool top2) {
    float best = -INFINITY, second = -INFINITY;
    for (size_t i = 0; i < n; ++i) {
        if (score[i] > best) {
            second = best;
            best = score[i];
        } else if (score[i] > second) {
            second = score[i];
        }
    }
    return top2 && n > 1 ? best + second : best;
}

// Sets the scores of all but the best n_groups_used groups to -infinity. group: scratch, n_groups floats.
void drop_groups(const Routing& r, float* score, float* group) {
    const size_t size = r.n_experts / r.n_groups;
    for (size_t g = 0; g < r.n_groups; ++g) group[g] = group_score(score + g * size, size, r.group_top2);
    for (size_t drop = r.n_groups_used; drop < r.n_groups; ++drop) {
        size_t worst = r.n_groups;
        for (size_t g = 0; g < r.n_groups; ++g) {
            if (group[g] != INFINITY && (worst == r.n_groups || group[g] <= group[worst])) worst = g;
        }
        group[worst] = INFINITY;  // dropped; a later group of equal score goes first
        std::fill(score + worst * size, score + (worst + 1) * size, -INFINITY);
    }
}

// Index of the largest of n values, the first among equals; NaN counts as none.
size_t largest(const float* score, size_t n) {
    size_t best = 0;
    while (best + 1 < n && !(score[best] == score[best])) ++best;
    for (size_t i = best + 1; i < n; ++i) {
        if (score[i] > score[best]) best = i;
    }
    return best;
}

// Probability of expert `best` among those whose score is near its own. Experts that were chosen before have
// a score of -infinity.
float sparse_share(const Routing& r, const float* score, size_t best) {
    const float top = score[best];
    float sum = 0;
    for (size_t i = 0; i < r.n_experts; ++i) {
        const float size = std::max(std::fabs(score[i]), top);
        if (score[i] != -INFINITY && !(top - score[i] > 2 * r.jitter * size)) sum += std::exp(score[i] - top);
    }
    return 1 / sum;
}

}  // namespace

Router::Router(const RunContext& context)
    : context_(context),
      scratch_(context.max_threads(), 3 * context.plan.max_experts * sizeof(float)),
      experts_(static_cast<size_t>(context.plan.n_moe)),
      weights_(static_cast<size_t>(context.plan.n_moe)) {
    const size_t n = context.plan.options.batch * context.plan.max_used;
    for (auto& slot : experts_) slot.resize(n);
    for (auto& slot : weights_) slot.resize(n);
}

void Router::select_rows() {
    const std::vector<uint32_t>& rows = context_.batch.output_rows;
    for (const Routing& r : context_.plan.selected_routings) {
        int32_t* experts = experts_[static_cast<size_t>(r.slot)].data();
        float* weights = weights_[static_cast<size_t>(r.slot)].data();
        // Ascending: a row never overwrites one that is still to move.
        for (size_t i = 0; i < rows.size(); ++i) {
            std::copy_n(experts + rows[i] * r.n_used, r.n_used, experts + i * r.n_used);
            std::copy_n(weights + rows[i] * r.n_used, r.n_used, weights + i * r.n_used);
        }
    }
}

void Router::route(const Routing& r, const float* logits, size_t row, size_t thread) {
    const size_t n = r.n_experts;
    float* p = scratch_.floats(thread);  // probability of each expert (softmax_chosen: its logit)
    float* score = p + n;                // experts are chosen by it; -infinity: not at all
    const RowKernels& rows = context_.kernels.rows;
    std::memcpy(p, logits, n * sizeof(float));
    if (r.gating == Gating::kSoftmax) rows.softmax(p, n);
    if (r.gating == Gating::kSigmoid) rows.activation({Activation::kSigmoid}, p, n, p);
    const float* bias = context_.weights.vector(r.selection_bias);
    for (size_t i = 0; i < n; ++i) score[i] = bias == nullptr ? p[i] : p[i] + bias[i];
    if (r.n_groups > 1) drop_groups(r, score, score + n);

    int32_t* chosen = experts_[static_cast<size_t>(r.slot)].data() + row * r.n_used;
    float* weight = weights_[static_cast<size_t>(r.slot)].data() + row * r.n_used;
    for (size_t k = 0; k < r.n_used; ++k) {
        const size_t best = largest(score, n);
        chosen[k] = static_cast<int32_t>(best);
        weight[k] = r.gating == Gating::kSparseMixer ? sparse_share(r, score, best) : p[best];
        score[best] = -INFINITY;
    }
    if (r.gating == Gating::kSoftmaxChosen) rows.softmax(weight, r.n_used);
    float scale = r.factor;
    if (r.normalize) {
        float sum = 0;
        for (size_t k = 0; k < r.n_used; ++k) sum += weight[k];
        scale /= sum + 1e-20f;
    }
    const float* expert_scale = context_.weights.vector(r.expert_scale);
    for (size_t k = 0; k < r.n_used; ++k) {
        weight[k] *= expert_scale == nullptr ? scale : scale * expert_scale[chosen[k]];
    }
}

}  // namespace edgellm
