// SPDX-License-Identifier: MIT
#include "runtime/run_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgellm {
namespace {

void slice(const RowOp& op, const float* a, float* out) {
    const size_t stride = op.a.width / op.groups;
    for (size_t g = 0; g < op.groups; ++g) {
        std::memcpy(out + g * op.size, a + g * stride + op.start, op.size * sizeof(float));
    }
}

void concat(const RowOp& op, const float* a, const float* b, float* out) {
    const size_t na = op.repeat_a ? op.a.width : op.a.width / op.groups;
    const size_t nb = op.repeat_b ? op.b.width : op.b.width / op.groups;
    for (size_t g = 0; g < op.groups; ++g) {
        std::memcpy(out + g * (na + nb), a + (op.repeat_a ? 0 : g * na), na * sizeof(float));
        std::memcpy(out + g * (na + nb) + na, b + (op.repeat_b ? 0 : g * nb), nb * sizeof(float));
    }
}

void repeat(const RowOp& op, const float* a, float* out) {
    const size_t size = op.a.width / op.groups;
    for (size_t g = 0; g < op.groups; ++g) {
        for (size_t i = 0; i < op.times; ++i) {
            const size_t to = op.interleave ? g * op.times + i : i * op.groups + g;
            std::memcpy(out + to * size, a + g * size, size * sizeof(float));
        }
    }
}

}  // namespace

RowRunner::RowRunner(const RunContext& context, Router* router)
    : context_(context),
      router_(*router),
      angle_region_(sizeof(float) * context.plan.options.batch * context.plan.angle_floats_per_row + 64,
                    false),
      angles_(reinterpret_cast<float*>(angle_region_.data())) {}

void RowRunner::compute_angles(size_t t) {
    const auto [begin, end] = context_.share(context_.batch.n_rows, t);
    const std::vector<AngleSet>& sets = context_.plan.angles;
    for (size_t row = begin; row < end; ++row) {
        for (size_t i = 0; i < sets.size(); ++i) {
            const AngleSet& set = sets[i];
            const double mscale = context_.program.tables[static_cast<size_t>(set.table)].mscale;
            float* cosines = angles_ + row * context_.plan.angle_floats_per_row + set.offset;
            context_.kernels.rows.rope_angles(context_.weights.frequencies(i), set.n_pairs,
                                              static_cast<float>(mscale), context_.batch.positions[row],
                                              cosines, cosines + set.n_pairs);
        }
    }
}

void RowRunner::run(const RowStage& stage, size_t t) {
    const auto [begin, end] = context_.share(context_.n_rows, t);
    run(stage.ops, {}, begin, end, Thread{t});
}

void RowRunner::run(std::span<const RowOp> ops, std::span<const QuantSlot> quants, size_t begin, size_t end,
                    const Thread& thread) {
    for (size_t row = begin; row < end; ++row) {
        for (const RowOp& op : ops) run_op(op, quants, row, thread);
    }
}

void RowRunner::run_op(const RowOp& op, std::span<const QuantSlot> quants, size_t row, const Thread& thread) {
    const bool is_private = thread.private_rows != nullptr;
    // If every thread runs the row for itself, thread 0 alone writes to shared memory.
    const bool owner = !is_private || thread.index == 0;
    const float* a = op.a.buffer == -1 ? nullptr : context_.at(op.a, row, thread);
    const float* b = op.b.buffer == -1 ? nullptr : context_.at(op.b, row, thread);
    float* out = op.out.buffer == -1 ? nullptr : context_.at(op.out, row, thread);
    const size_t n = op.out.width;
    const Weights& w = context_.weights;
    const RowKernels& kernels = context_.kernels.rows;
    switch (op.kind) {
        case RowOpKind::kEmbed:
            return embed(op, row, out);
        case RowOpKind::kNorm:
            return kernels.norm(
                {op.norm, op.groups, op.eps, w.vector(op.weight), w.vector(op.bias), op.per_row}, a, n, out);
        case RowOpKind::kAffine:
            return kernels.affine(
                {op.factor, w.vector(op.weight), op.weight_scalar, w.vector(op.bias), op.bias_scalar}, a, n,
                out);
        case RowOpKind::kRope:
            return rope(op, row, a, out);
        case RowOpKind::kPositionScale: {
            const auto turns = static_cast<float>(context_.batch.positions[row] / op.size);
            return kernels.affine({1.0f + op.factor * std::log1p(turns)}, a, n, out);
        }
        case RowOpKind::kGlu:
            return kernels.glu(op.fn, a, b, n, op.limit, op.alpha, out);
        case RowOpKind::kActivation:
            return kernels.activation(op.fn, a, n, out);
        case RowOpKind::kAdd:
            return kernels.add(a, b, n, out);
        case RowOpKind::kMul:
            return mul(op, a, b, out);
        case RowOpKind::kSoftcap:
            return kernels.softcap(a, n, op.cap, out);
        case RowOpKind::kSlice:
            return slice(op, a, out);
        case RowOpKind::kConcat:
            return concat(op, a, b, out);
        case RowOpKind::kRepeat:
            return repeat(op, a, out);
        case RowOpKind::kKvWrite:
            if (owner) kv_write(op, row, a, b);
            return;
        case RowOpKind::kRoute:
            if (owner) router_.route(op.routing, a, row, thread.index);
            return;
        case RowOpKind::kQuantize:
            return context_.kernels.linear.quantize_row(
                a, context_.quant_rows(quants[static_cast<size_t>(op.index)], thread), row);
        case RowOpKind::kExport:
            if (is_private && thread.index == 0)
                std::memcpy(context_.at(op.a, row), a, op.a.width * sizeof(float));
            return;
    }
}

size_t RowRunner::segment_of(const RowOp& op, size_t row) const {
    const Batch& batch = context_.batch;
    const size_t first = row - std::min<size_t>(row, batch.positions[row]);
    const auto begin = batch.tokens.begin();
    return std::find(begin + static_cast<ptrdiff_t>(first), begin + static_cast<ptrdiff_t>(row),
                     op.separator) != begin + static_cast<ptrdiff_t>(row);
}

void RowRunner::embed(const RowOp& op, size_t row, float* out) const {
    const EmbeddingTable& table = context_.weights.embedding(op.index);
    const Batch& batch = context_.batch;
    const size_t index = op.source == EmbedSource::kToken      ? static_cast<size_t>(batch.tokens[row])
                         : op.source == EmbedSource::kPosition ? batch.positions[row]
                         : op.source == EmbedSource::kSegment  ? segment_of(op, row)
                                                               : 0;
    table.format->decode(table.rows + index * table.row_bytes, op.out.width / table.format->block_size, out);
}

void RowRunner::rope(const RowOp& op, size_t row, const float* a, float* out) const {
    const size_t n = op.out.width;
    const AngleSet& set = context_.plan.angles[static_cast<size_t>(op.index)];
    const float* cosines = angles(set, row);
    std::memcpy(out, a, n * sizeof(float));
    context_.kernels.rows.rope(op.rope, out, op.groups, n / op.groups, cosines, cosines + set.n_pairs,
                               set.n_pairs);
}

// b holds a factor for each value of a, or for each slice of it.
void RowRunner::mul(const RowOp& op, const float* a, const float* b, float* out) const {
    const RowKernels& kernels = context_.kernels.rows;
    const size_t n = op.out.width;
    if (op.b.width == n) return kernels.mul(a, b, n, out);
    const size_t size = n / op.b.width;
    for (size_t g = 0; g < op.b.width; ++g) {
        kernels.affine({b[g]}, a + g * size, size, out + g * size);
    }
}

void RowRunner::kv_write(const RowOp& op, size_t row, const float* k, const float* v) const {
    const Batch& batch = context_.batch;
    const auto segment = std::find_if(batch.segments.begin(), batch.segments.end(),
                                      [row](const Segment& s) { return row < s.first_row + s.n_rows; });
    const auto cache = static_cast<size_t>(op.index);
    const size_t position = batch.positions[row];
    uint8_t* block = segment->sequence->blocks[cache][position / kKvBlockTokens];
    context_.kernels.attention.write(context_.plan.cache_shapes[cache], block,
                                     static_cast<uint32_t>(position % kKvBlockTokens), k, v);
}

}  // namespace edgellm
