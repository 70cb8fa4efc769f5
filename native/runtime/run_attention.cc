// SPDX-License-Identifier: MIT
#include "runtime/run_attention.h"

#include <algorithm>
#include <variant>

namespace edgellm {
namespace {

// Rows (query, head) of one task: the kernels cut them into full tiles.
constexpr size_t kTaskRows = 48;

size_t heads_per_kv_head(const AttentionShape& shape) {
    return shape.n_heads / shape.n_kv_heads;
}

size_t queries_per_task(const AttentionShape& shape) {
    return std::max<size_t>(1, kTaskRows / heads_per_kv_head(shape));
}

// Floats of a chunk's partial results of one task of one query.
size_t task_partial_floats(const AttentionShape& shape) {
    return heads_per_kv_head(shape) * partial_floats(shape);
}

// The largest of fn(shape) over a plan's attention stages.
template <class Fn>
size_t most(const ExecutionPlan& plan, const Fn& fn) {
    size_t n = 0;
    for (const Stage& stage : plan.stages) {
        if (const auto* attention = std::get_if<AttentionStage>(&stage))
            n = std::max(n, fn(attention->shape));
    }
    return n;
}

}  // namespace

AttentionRunner::AttentionRunner(RunContext* context)
    : context_(*context),
      max_chunks_(context->max_context / kKvChunkTokens + 1),
      scratch_(context->max_threads(), most(context->plan, attend_scratch_floats) * sizeof(float)),
      partials_(most(context->plan, task_partial_floats) * max_chunks_ * 2 * context->max_threads()) {}

AttentionTask AttentionRunner::make_task(const AttentionStage& stage, const Segment& segment, size_t kv_head,
                                         size_t query, size_t n) const {
    AttentionTask task;
    task.blocks = segment.sequence->blocks[static_cast<size_t>(stage.cache)].data();
    task.kv_head = static_cast<uint32_t>(kv_head);
    task.n_queries = static_cast<uint32_t>(n);
    task.position = static_cast<uint32_t>(segment.position + query);
    task.n_keys = stage.causal ? 0 : static_cast<uint32_t>(segment.position + segment.n_rows);
    task.q = context_.at(stage.q, segment.first_row + query);
    task.q_stride = stage.q.ld;
    task.out = context_.at(stage.out, segment.first_row + query);
    task.out_stride = stage.out.ld;
    return task;
}

AttentionTask AttentionRunner::token_task(const AttentionStage& stage, size_t i) const {
    const size_t n_kv_heads = stage.shape.n_kv_heads;
    return make_task(stage, context_.segments()[i / n_kv_heads], i % n_kv_heads, 0, 1);
}

void AttentionRunner::run(size_t s, const AttentionStage& stage, size_t t) {
    AttentionShape shape = stage.shape;
    shape.sinks = context_.weights.vector(stage.sinks);
    shape.bias = context_.weights.bias(stage.bias);
    shape.bias_stride = context_.weights.bias_stride();
    const std::vector<Segment>& segments = context_.segments();
    size_t longest = 0;
    for (const Segment& seg : segments) longest = std::max(longest, seg.position + seg.n_rows);
    const size_t n_threads = context_.n_threads();
    const bool single_tokens = segments.size() == context_.n_rows;
    const bool few_tasks = n_threads > 1 && segments.size() * shape.n_kv_heads < 2 * n_threads;
    if (stage.causal && single_tokens && few_tasks && longest > kKvChunkTokens) {
        run_chunks(s, stage, shape, t);
    } else {
        run_tasks(s, stage, shape, t);
    }
}

void AttentionRunner::run_chunks(size_t s, const AttentionStage& stage, const AttentionShape& shape,
                                 size_t t) {
    const AttentionKernels& kernels = context_.kernels.attention;
    const size_t n_tasks = context_.segments().size() * shape.n_kv_heads;
    const size_t head_floats = task_partial_floats(shape);
    uint32_t first, last;
    for (size_t i; (i = context_.take(s, 0)) < n_tasks * max_chunks_;) {
        const size_t chunk = i % max_chunks_;
        const AttentionTask task = token_task(stage, i / max_chunks_);
        visible_chunks(shape, task.position, task.n_keys, &first, &last);
        if (chunk < first || chunk >= last) continue;
        kernels.attend_chunk(shape, task, static_cast<uint32_t>(chunk),
                             partials(i / max_chunks_, chunk, head_floats), scratch_.floats(t));
    }
    context_.barrier();
    const auto [begin, end] = context_.share(n_tasks, t);
    for (size_t i = begin; i < end; ++i) {
        const AttentionTask task = token_task(stage, i);
        visible_chunks(shape, task.position, task.n_keys, &first, &last);
        kernels.merge(shape, task, first, last, partials(i, first, head_floats), head_floats);
    }
}

// The kernels know windows that end at a position. Keys around a query are such a window of nearly twice the
// size, at a later position; at the end of the text, where there are fewer, each query has a size of its own.
void AttentionRunner::attend_near(const AttentionStage& stage, AttentionShape shape, const Segment& segment,
                                  size_t kv_head, size_t query, size_t n, size_t t) {
    const size_t window = shape.window, n_keys = segment.position + segment.n_rows;
    const auto attend = [&](size_t first, size_t count, size_t position, size_t size) {
        AttentionTask task = make_task(stage, segment, kv_head, first, count);
        task.n_keys = 0;
        task.position = static_cast<uint32_t>(position);
        shape.window = static_cast<uint32_t>(size);
        context_.kernels.attention.attend(shape, task, scratch_.floats(t));
    };
    const size_t position = segment.position + query;
    const size_t whole = position + window > n_keys ? 0 : std::min(n, n_keys - position - window + 1);
    if (whole > 0) attend(query, whole, position + window - 1, 2 * window - 1);
    for (size_t i = whole; i < n; ++i) {
        const size_t first = position + i < window ? 0 : position + i - window + 1;
        attend(query + i, 1, n_keys - 1, n_keys - first);
    }
}

void AttentionRunner::run_tasks(size_t s, const AttentionStage& stage, const AttentionShape& shape,
                                size_t t) {
    const std::vector<Segment>& segments = context_.segments();
    const size_t queries = queries_per_task(shape);
    const auto n_tasks_of = [&](const Segment& segment) {
        return (segment.n_rows + queries - 1) / queries * shape.n_kv_heads;
    };
    const bool near_only = !stage.causal && shape.window > 0;
    size_t n_tasks = 0;
    for (const Segment& segment : segments) n_tasks += n_tasks_of(segment);
    for (size_t i; (i = context_.take(s, 0)) < n_tasks;) {
        size_t left = n_tasks - 1 - i;  // last queries first: they see most keys
        auto segment = segments.begin();
        for (; left >= n_tasks_of(*segment); ++segment) left -= n_tasks_of(*segment);
        const size_t query = left / shape.n_kv_heads * queries;
        const size_t kv_head = left % shape.n_kv_heads, n = std::min(queries, segment->n_rows - query);
        if (near_only && segment->position + segment->n_rows > shape.window) {
            attend_near(stage, shape, *segment, kv_head, query, n, t);
            continue;
        }
        const AttentionTask task = make_task(stage, *segment, kv_head, query, n);
        context_.kernels.attention.attend(shape, task, scratch_.floats(t));
    }
}

}  // namespace edgellm
