// SPDX-License-Identifier: MIT
#include "runtime/run_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgellm {
namespace {

// An operation on one row: its operands, and a call for each type of operation.
struct RowCall {
    const RunContext& context;
    Router& router;
    const float* all_angles;
    std::span<const QuantSlot> quants;
    size_t row;
    const Thread& thread;
    const RowOp& op;
    const float* a = operand(op.a);
    const float* b = operand(op.b);
    float* out = operand(op.out);
    size_t n = op.out.width;
    size_t token = context.batch_row(row);

    const RowKernels& kernels() const { return context.kernels.rows; }
    float* operand(const ValueRef& value) const {
        return value.buffer == -1 ? nullptr : context.at(value, row, thread);
    }
    // If every thread runs the row for itself, thread 0 alone writes to shared memory.
    bool is_private() const { return thread.private_rows != nullptr; }
    bool owner() const { return !is_private() || thread.index == 0; }

    void operator()(const EmbedOp& embed) const {
        const EmbeddingTable& table = context.weights.embedding(embed.table);
        const size_t index = index_of(embed);
        table.format->decode(table.rows + index * table.row_bytes, n / table.format->block_size, out);
    }
    size_t index_of(const EmbedOp& embed) const {
        switch (embed.source) {
            case EmbedSource::kToken:
                return static_cast<size_t>(context.batch.tokens[token]);
            case EmbedSource::kPosition:
                return context.batch.positions[token];
            case EmbedSource::kFirst:
                return 0;
            case EmbedSource::kSegment:
                return is_after(embed.separator) ? 1 : 0;
        }
        return 0;
    }
    // True after the first separator of the row's text.
    bool is_after(int separator) const {
        const Batch& batch = context.batch;
        const size_t first = token - std::min<size_t>(token, batch.positions[token]);
        const auto begin = batch.tokens.begin() + static_cast<ptrdiff_t>(first),
                   end = batch.tokens.begin() + static_cast<ptrdiff_t>(token);
        return std::find(begin, end, separator) != end;
    }

    void operator()(const NormOp& norm) const {
        const Weights& w = context.weights;
        kernels().norm(
            {norm.kind, norm.groups, norm.eps, w.vector(norm.weight), w.vector(norm.bias), norm.per_row}, a,
            n, out);
    }

    void operator()(const AffineOp& affine) const {
        const Weights& w = context.weights;
        kernels().affine({affine.factor, w.vector(affine.weight), affine.weight_scalar, w.vector(affine.bias),
                          affine.bias_scalar},
                         a, n, out);
    }

    void operator()(const RopeOp& rope) const {
        const AngleSet& set = context.plan.angles[rope.angles];
        const float* cosines = all_angles + token * context.plan.angle_floats_per_row + set.offset;
        std::memcpy(out, a, n * sizeof(float));
        kernels().rope(rope.kind, out, rope.n_heads, n / rope.n_heads, cosines, cosines + set.n_pairs,
                       set.n_pairs);
    }

    void operator()(const PositionScaleOp& scale) const {
        const auto turns = static_cast<float>(context.batch.positions[token] / scale.length);
        kernels().affine({1.0f + scale.beta * std::log1p(turns)}, a, n, out);
    }

    void operator()(const GluOp& glu) const { kernels().glu(glu.fn, a, b, n, glu.limit, glu.alpha, out); }
    void operator()(const ActivationOp& activation) const {
        kernels().activation(activation.task, a, n, out);
    }
    void operator()(const SoftcapOp& softcap) const { kernels().softcap(a, n, softcap.cap, out); }
    void operator()(const AddOp&) const { kernels().add(a, b, n, out); }

    void operator()(const MulOp&) const {
        if (op.b.width == n) return kernels().mul(a, b, n, out);
        const size_t size = n / op.b.width;
        for (size_t g = 0; g < op.b.width; ++g) kernels().affine({b[g]}, a + g * size, size, out + g * size);
    }

    void operator()(const SliceOp& slice) const {
        const size_t stride = op.a.width / slice.groups;
        for (size_t g = 0; g < slice.groups; ++g)
            std::memcpy(out + g * slice.size, a + g * stride + slice.start, slice.size * sizeof(float));
    }

    void operator()(const ConcatOp& concat) const {
        const size_t na = concat.repeat_a ? op.a.width : op.a.width / concat.groups;
        const size_t nb = concat.repeat_b ? op.b.width : op.b.width / concat.groups;
        for (size_t g = 0; g < concat.groups; ++g) {
            std::memcpy(out + g * (na + nb), a + (concat.repeat_a ? 0 : g * na), na * sizeof(float));
            std::memcpy(out + g * (na + nb) + na, b + (concat.repeat_b ? 0 : g * nb), nb * sizeof(float));
        }
    }

    void operator()(const RepeatOp& repeat) const {
        const size_t size = op.a.width / repeat.groups;
        for (size_t g = 0; g < repeat.groups; ++g) {
            for (size_t i = 0; i < repeat.times; ++i) {
                const size_t to = repeat.interleave ? g * repeat.times + i : i * repeat.groups + g;
                std::memcpy(out + to * size, a + g * size, size * sizeof(float));
            }
        }
    }

    void operator()(const KvWriteOp& write) const {
        if (!owner()) return;
        const Batch& batch = context.batch;
        const auto segment = std::find_if(batch.segments.begin(), batch.segments.end(),
                                          [this](const Segment& s) { return row < s.first_row + s.n_rows; });
        const size_t position = batch.positions[row];
        uint8_t* block = segment->sequence->blocks[write.cache][position / kKvBlockTokens];
        context.kernels.attention.write(context.plan.cache_shapes[write.cache], block,
                                        static_cast<uint32_t>(position % kKvBlockTokens), a, b);
    }

    void operator()(const Routing& routing) const {
        if (owner()) router.route(routing, a, row, thread.index);
    }

    void operator()(const QuantizeOp& quantize) const {
        context.kernels.linear.quantize_row(a, context.quant_rows(quants[quantize.slot], thread), row);
    }

    void operator()(const ExportOp&) const {
        if (is_private() && thread.index == 0)
            std::memcpy(context.at(op.a, row), a, op.a.width * sizeof(float));
    }
};

}  // namespace

RowRunner::RowRunner(RunContext* context, Router* router)
    : context_(*context),
      router_(*router),
      angle_region_(sizeof(float) * context->plan.options.batch * context->plan.angle_floats_per_row + 64,
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

void RowRunner::run(size_t s, const RowStage& stage, size_t t) {
    context_.for_rows(s, t, [&](size_t begin, size_t end) { run(stage.ops, {}, begin, end, Thread{t}); });
}

void RowRunner::run(std::span<const RowOp> ops, std::span<const QuantSlot> quants, size_t begin, size_t end,
                    const Thread& thread) {
    for (size_t row = begin; row < end; ++row) {
        for (const RowOp& op : ops)
            std::visit(RowCall{context_, router_, angles_, quants, row, thread, op}, op.what);
    }
}

}  // namespace edgellm
