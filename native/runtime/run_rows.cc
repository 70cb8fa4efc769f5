// SPDX-License-Identifier: MIT
// The row programs: operations that touch one token's row only.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/executor.h"

namespace edgellm {

QuantRows Executor::quant_rows(const Stage& stage, int slot, uint8_t* memory) const {
    const QuantSlot& q = stage.quants[static_cast<size_t>(slot)];
    const size_t rows = memory == nullptr ? plan_.options.batch : plan_.private_rows;
    uint8_t* base = memory == nullptr ? quant_ + q.offset * plan_.options.batch : memory + q.private_offset;
    return quant_rows_in(base, q.n_in, rows, n_rows_);
}

void Executor::run_rows(const Stage& stage, size_t begin, size_t end, uint8_t* memory, size_t t) {
    for (size_t row = begin; row < end; ++row) {
        for (const RowOp& op : stage.rows) run_row_op(stage, op, row, memory, t);
    }
}

void Executor::run_row_op(const Stage& stage, const RowOp& op, size_t row, uint8_t* memory, size_t t) {
    const bool owner =
        memory == nullptr || t == 0;  // who acts on shared memory when every thread runs the row
    const float* a = op.a.buffer == -1 ? nullptr : at(op.a, row, memory);
    const float* b = op.b.buffer == -1 ? nullptr : at(op.b, row, memory);
    float* out = op.out.buffer == -1 ? nullptr : at(op.out, row, memory);
    const size_t n = op.out.width;
    switch (op.kind) {
        case RowOpKind::kEmbed: {
            const EmbeddingTable& table = embeddings[static_cast<size_t>(op.index)];
            const size_t index = op.source == EmbedSource::kToken ? static_cast<size_t>(batch.tokens[row])
                                 : op.source == EmbedSource::kPosition ? batch.positions[row]
                                                                       : 0;
            table.format->decode(table.rows + index * table.row_bytes, n / table.format->block_size, out);
            break;
        }
        case RowOpKind::kNorm:
            rows_.norm({op.norm, op.groups, op.eps, vector(op.weight), vector(op.bias), op.per_row}, a, n,
                       out);
            break;
        case RowOpKind::kAffine:
            rows_.affine({op.factor, vector(op.weight), op.weight_scalar, vector(op.bias), op.bias_scalar}, a,
                         n, out);
            break;
        case RowOpKind::kRope: {
            const AngleSet& set = plan_.angles[static_cast<size_t>(op.index)];
            const float* cosines = angles_ + row * plan_.angle_floats_per_row + set.offset;
            std::memcpy(out, a, n * sizeof(float));
            rows_.rope(op.rope, out, op.groups, n / op.groups, cosines, cosines + set.n_pairs, set.n_pairs);
            break;
        }
        case RowOpKind::kGlu:
            rows_.glu(op.fn, a, b, n, op.limit, op.alpha, out);
            break;
        case RowOpKind::kActivation:
            rows_.activation(op.fn, a, n, out);
            break;
        case RowOpKind::kAdd:
            rows_.add(a, b, n, out);
            break;
        case RowOpKind::kMul:
            if (op.b.width == n) {
                rows_.mul(a, b, n, out);
            } else {
                const size_t size = n / op.b.width;
                for (size_t g = 0; g < op.b.width; ++g) {
                    rows_.affine({.factor = b[g]}, a + g * size, size, out + g * size);
                }
            }
            break;
        case RowOpKind::kSoftcap:
            rows_.softcap(a, n, op.cap, out);
            break;
        case RowOpKind::kSlice: {
            const size_t stride = op.a.width / op.groups;
            for (size_t g = 0; g < op.groups; ++g) {
                std::memcpy(out + g * op.size, a + g * stride + op.start, op.size * sizeof(float));
            }
            break;
        }
        case RowOpKind::kConcat: {
            const size_t na = op.repeat_a ? op.a.width : op.a.width / op.groups;
            const size_t nb = op.repeat_b ? op.b.width : op.b.width / op.groups;
            for (size_t g = 0; g < op.groups; ++g) {
                std::memcpy(out + g * (na + nb), a + (op.repeat_a ? 0 : g * na), na * sizeof(float));
                std::memcpy(out + g * (na + nb) + na, b + (op.repeat_b ? 0 : g * nb), nb * sizeof(float));
            }
            break;
        }
        case RowOpKind::kRepeat: {
            const size_t size = op.a.width / op.groups;
            for (size_t g = 0; g < op.groups; ++g) {
                for (size_t i = 0; i < op.times; ++i) {
                    const size_t to = op.interleave ? g * op.times + i : i * op.groups + g;
                    std::memcpy(out + to * size, a + g * size, size * sizeof(float));
                }
            }
            break;
        }
        case RowOpKind::kKvWrite:
            if (owner) kv_write(op, row, a, b);
            break;
        case RowOpKind::kRoute:
            if (owner) route(op.routing, a, row, threads_[t].row);
            break;
        case RowOpKind::kQuantize:
            linear_.quantize_row(a, quant_rows(stage, op.index, memory), row);
            break;
        case RowOpKind::kExport:
            if (memory != nullptr && t == 0) {
                std::memcpy(arena_ + op.a.offset + row * op.a.ld, a, op.a.width * sizeof(float));
            }
            break;
    }
}

void Executor::kv_write(const RowOp& op, size_t row, const float* k, const float* v) {
    const auto segment = std::find_if(batch.segments.begin(), batch.segments.end(),
                                      [row](const Segment& s) { return row < s.first_row + s.n_rows; });
    const size_t position = batch.positions[row];
    uint8_t* block = segment->sequence->blocks[static_cast<size_t>(op.index)][position / kKvBlockTokens];
    attention_.write(plan_.cache_shapes[static_cast<size_t>(op.index)], block,
                     static_cast<uint32_t>(position % kKvBlockTokens), k, v);
}

// scratch: 3 * n_experts floats.
void Executor::route(const Routing& r, const float* logits, size_t row, float* scratch) {
    const size_t n = r.n_experts;
    float* p = scratch;          // probability of each expert (softmax_chosen: its logit)
    float* score = scratch + n;  // what experts are chosen by; -inf: out of the running
    float* group = scratch + 2 * n;
    std::memcpy(p, logits, n * sizeof(float));
    if (r.gating == Gating::kSoftmax) rows_.softmax(p, n);
    if (r.gating == Gating::kSigmoid) rows_.activation(Activation::kSigmoid, p, n, p);
    const float* bias = vector(r.selection_bias);
    for (size_t i = 0; i < n; ++i) score[i] = bias == nullptr ? p[i] : p[i] + bias[i];

    if (r.n_groups > 1) {
        const size_t size = n / r.n_groups;
        for (size_t g = 0; g < r.n_groups; ++g) {
            float best = -INFINITY, second = -INFINITY;
            for (size_t i = g * size; i < (g + 1) * size; ++i) {
                if (score[i] > best) {
                    second = best;
                    best = score[i];
                } else if (score[i] > second) {
                    second = score[i];
                }
            }
            group[g] = r.group_top2 && size > 1 ? best + second : best;
        }
        for (size_t drop = r.n_groups_used; drop < r.n_groups; ++drop) {
            size_t worst = r.n_groups;
            for (size_t g = 0; g < r.n_groups; ++g) {
                if (group[g] != INFINITY && (worst == r.n_groups || group[g] <= group[worst])) worst = g;
            }
            group[worst] = INFINITY;  // dropped; a later group of equal score goes first
            std::fill(score + worst * size, score + (worst + 1) * size, -INFINITY);
        }
    }

    int32_t* chosen = chosen_[static_cast<size_t>(r.slot)].data() + row * r.n_used;
    float* weight = chosen_weight_[static_cast<size_t>(r.slot)].data() + row * r.n_used;
    for (size_t k = 0; k < r.n_used; ++k) {
        size_t best = 0;
        while (best + 1 < n && !(score[best] == score[best])) ++best;
        for (size_t i = best + 1; i < n; ++i) {
            if (score[i] > score[best]) best = i;
        }
        chosen[k] = static_cast<int32_t>(best);
        weight[k] = p[best];
        score[best] = -INFINITY;
    }
    if (r.gating == Gating::kSoftmaxChosen) rows_.softmax(weight, r.n_used);
    float scale = r.factor;
    if (r.normalize) {
        float sum = 0;
        for (size_t k = 0; k < r.n_used; ++k) sum += weight[k];
        scale /= sum + 1e-20f;
    }
    for (size_t k = 0; k < r.n_used; ++k) weight[k] *= scale;
}

}  // namespace edgellm
