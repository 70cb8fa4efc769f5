// SPDX-License-Identifier: MIT
#include "runtime/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace edgellm {
namespace {

uint64_t now_ns() {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                     std::chrono::steady_clock::now().time_since_epoch())
                                     .count());
}

}  // namespace

Executor::Executor(const Plan& plan, const Program& program, const Adapters& adapters, ThreadPool* pool,
                   size_t context)
    : plan_(plan),
      program_(program),
      adapters_(adapters),
      pool_(pool),
      linear_(linear_kernels(plan.options.isa)),
      rows_(row_kernels(plan.options.isa)),
      attention_(attention_kernels(plan.options.isa)),
      state_(state_kernels(plan.options.isa)) {
    const size_t rows = plan.options.batch;
    arena_region_ = Region(sizeof(float) * rows * plan.arena_floats_per_row + 64, false);
    arena_ = reinterpret_cast<float*>(arena_region_.data());
    quant_region_ = Region(
        rows * plan.quant_bytes_per_row + sizeof(float) * rows * plan.angle_floats_per_row + 64, false);
    quant_ = quant_region_.data();
    angles_ = reinterpret_cast<float*>(quant_ + align_up(rows * plan.quant_bytes_per_row, 64));

    size_t attend = 0, heads = 0;
    for (const Stage& s : plan.stages) {
        if (s.kind != StageKind::kAttend) continue;
        attend = std::max(attend, attend_scratch_floats(s.attend.shape));
        const AttentionShape& shape = s.attend.shape;
        heads = std::max(heads, shape.n_heads / shape.n_kv_heads * partial_floats(shape));
    }
    size_t experts = 0;
    for (const Stage& s : plan.stages) {
        for (const RowOp& r : s.rows) experts = std::max<size_t>(experts, r.routing.n_experts);
    }
    max_chunks_ = context / kKvChunkTokens + 1;
    partials_.resize(heads * max_chunks_ * 2 * pool->size());

    const size_t private_bytes = align_up(plan.private_bytes, 64);
    const size_t n_tiles = adapters.size() > 0 ? 3 : 2;
    const size_t thread_bytes =
        private_bytes +
        align_up(sizeof(float) * (n_tiles * kTileFloats + align_up(attend, 16) + align_up(3 * experts, 16)),
                 4096);
    thread_region_ = Region(thread_bytes * pool->size(), false);
    for (size_t t = 0; t < pool->size(); ++t) {
        uint8_t* base = thread_region_.data() + t * thread_bytes;
        auto* tile = reinterpret_cast<float*>(base + private_bytes);
        float* scratch = tile + n_tiles * kTileFloats;
        threads_.push_back({base, tile, tile + kTileFloats, scratch, scratch + align_up(attend, 16),
                            tile + 2 * kTileFloats});
    }
    low_values_.resize(rows * adapters.low_floats());
    row_scales_.resize(rows * adapters.size());
    low_ = low_values_.data();
    counters_ = std::make_unique<Counter[]>(plan.stages.size() * kPhases);
    thresholds_.resize(kMostLargest * pool->size());

    chosen_.resize(static_cast<size_t>(plan.n_moe));
    chosen_weight_.resize(static_cast<size_t>(plan.n_moe));
    for (size_t i = 0; i < chosen_.size(); ++i) {
        chosen_[i].resize(rows * plan.max_used);
        chosen_weight_[i].resize(rows * plan.max_used);
    }
    if (plan.n_moe > 0) {
        moe_region_ = Region(rows * plan.max_used * plan.moe_row_bytes + 4096, false);
        entry_row_.resize(rows * plan.max_used);
        entry_of_.resize(rows * plan.max_used);
        expert_begin_.resize(experts + 1);
    }
    batch.tokens.reserve(rows);
    batch.positions.reserve(rows);
    batch.segments.reserve(rows);
    batch.output_rows.reserve(rows);
}

size_t Executor::scratch_bytes() const {
    return arena_region_.size() + quant_region_.size() + thread_region_.size() + moe_region_.size() +
           (partials_.size() + low_values_.size() + row_scales_.size()) * sizeof(float);
}

PackedMatrix Executor::matrix(int i, size_t expert) const {
    const MatrixUse& use = plan_.matrices[static_cast<size_t>(i)];
    PackedMatrix m = use.packed;
    m.data = matrix_data[static_cast<size_t>(i)] + expert * use.expert_stride;
    return m;
}

std::pair<size_t, size_t> Executor::share(size_t n, size_t t) const {
    const size_t threads = pool_->size();
    return {n * t / threads, n * (t + 1) / threads};
}

void Executor::run(float* logits, size_t n_largest) {
    n_largest_ = n_largest;
    n_exact_ = 0;
    run_stages(logits, static_cast<int>(plan_.stages.size()));
    if (!batch.output_rows.empty()) judge_finding(plan_.stages.back());
}

void Executor::run_hidden(float* hidden) {
    batch.output_rows.resize(batch.n_rows);
    for (size_t i = 0; i < batch.n_rows; ++i) batch.output_rows[i] = static_cast<uint32_t>(i);
    run_stages(nullptr, plan_.hidden_stage);
    for (size_t i = 0; i < batch.n_rows; ++i) {
        std::memcpy(hidden + i * plan_.hidden.width, at(plan_.hidden, i, nullptr),
                    plan_.hidden.width * sizeof(float));
    }
}

void Executor::run_stages(float* logits, int last_stage) {
    logits_ = logits;
    n_rows_ = batch.n_rows;
    prepare_scales();
    for (size_t i = 0; i < plan_.stages.size() * kPhases; ++i)
        counters_[i].next.store(0, std::memory_order_relaxed);
    pool_->run([this, last_stage](size_t t) { thread_main(t, last_stage); });
}

// last_stage: the stage whose row program is the last work (the rest of it is left out); past the end:
// everything.
void Executor::thread_main(size_t t, int last_stage) {
    const bool timed = profile.enabled && t == 0;
    uint64_t start = timed ? now_ns() : 0;
    const auto lap = [&](uint64_t* sum) {
        if (!timed) return;
        const uint64_t now = now_ns();
        *sum += now - start;
        start = now;
    };
    if (!plan_.angles.empty()) {
        compute_angles(t);
        pool_->barrier();
    }
    lap(&profile.angles);
    size_t rows = batch.n_rows;
    for (size_t s = 0; s < plan_.stages.size() && static_cast<int>(s) <= last_stage; ++s) {
        const Stage& stage = plan_.stages[s];
        switch (stage.kind) {
            case StageKind::kRows: {
                const auto [begin, end] = share(rows, t);
                run_rows(stage, begin, end, nullptr, t);
                break;
            }
            case StageKind::kLinear:
                run_linear(s, t, static_cast<int>(s) == last_stage);
                break;
            case StageKind::kAttend:
                run_attend(s, t);
                break;
            case StageKind::kMoe:
                run_moe(s, t);
                break;
            case StageKind::kState:
                run_state(s, t);
                break;
        }
        pool_->barrier();
        switch (stage.kind) {
            case StageKind::kRows:
                lap(&profile.rows);
                break;
            case StageKind::kLinear:
                lap(s + 1 == plan_.stages.size() ? &profile.head : &profile.linear);
                break;
            case StageKind::kAttend:
                lap(&profile.attend);
                break;
            case StageKind::kMoe:
                lap(&profile.moe);
                break;
            case StageKind::kState:
                lap(&profile.state);
                break;
        }
        if (static_cast<int>(s) == plan_.select_after && batch.output_rows.size() != rows) {
            // No later stage touches a sequence: only the rows whose outputs are asked for go on.
            rows = batch.output_rows.size();
            if (rows == 0) return;
            select_rows(t);
            pool_->barrier();
            if (t == 0) {
                n_rows_ = rows;
                if (adapted_) select_scales();
            }
            pool_->barrier();
        }
    }
}

void Executor::select_rows(size_t t) {
    const auto [begin, end] = share(plan_.selected.size(), t);
    for (size_t i = begin; i < end; ++i) {
        const Buffer& b = plan_.buffers[static_cast<size_t>(plan_.selected[i])];
        float* base = arena_ + b.offset * plan_.options.batch;
        for (size_t r = 0; r < batch.output_rows.size();
             ++r) {  // ascending: a row never overwrites one still to move
            const size_t from = batch.output_rows[r];
            if (from != r)
                std::memcpy(base + r * b.floats_per_row, base + from * b.floats_per_row,
                            b.floats_per_row * sizeof(float));
        }
    }
}

void Executor::compute_angles(size_t t) {
    const auto [begin, end] = share(batch.n_rows, t);
    for (size_t row = begin; row < end; ++row) {
        for (const AngleSet& set : plan_.angles) {
            const RopeTable& table = program_.tables[static_cast<size_t>(set.table)];
            float* cosines = angles_ + row * plan_.angle_floats_per_row + set.offset;
            rows_.rope_angles(table.inv_freq.data(), set.n_pairs, static_cast<float>(table.mscale),
                              batch.positions[row], cosines, cosines + set.n_pairs);
        }
    }
}

// ---- attention ----

void Executor::run_attend(size_t s, size_t t) {
    const AttendStage& stage = plan_.stages[s].attend;
    AttentionShape shape = stage.shape;
    shape.sinks = vector(stage.sinks);
    // Queries of one task: with the heads that share keys they make some 48 rows, which the kernels cut into
    // full tiles.
    const size_t queries = std::max<size_t>(1, 48 / (shape.n_heads / shape.n_kv_heads));
    Thread& thread = threads_[t];
    size_t n_tasks = 0;
    size_t longest = 0;
    for (const Segment& seg : batch.segments) {
        n_tasks += (seg.n_rows + queries - 1) / queries * shape.n_kv_heads;
        longest = std::max(longest, seg.position + seg.n_rows);
    }
    const auto make_task = [&](const Segment& seg, size_t kv_head, size_t query, size_t n) {
        AttentionTask task;
        task.blocks = seg.sequence->blocks[static_cast<size_t>(stage.cache)].data();
        task.kv_head = static_cast<uint32_t>(kv_head);
        task.n_queries = static_cast<uint32_t>(n);
        task.position = static_cast<uint32_t>(seg.position + query);
        task.n_keys = stage.causal ? 0 : static_cast<uint32_t>(seg.position + seg.n_rows);
        task.q = at(stage.q, seg.first_row + query, nullptr);
        task.q_stride = stage.q.ld;
        task.out = at(stage.out, seg.first_row + query, nullptr);
        task.out_stride = stage.out.ld;
        return task;
    };
    auto& counter = counters_[s * kPhases].next;

    // Few tasks over long pasts: one token of a few sequences. Chunks of the past are shared out, then
    // merged.
    const bool split = pool_->size() > 1 && n_tasks < 2 * pool_->size() &&
                       batch.segments.size() == batch.n_rows && longest > kKvChunkTokens;
    if (split) {
        const size_t head_floats = shape.n_heads / shape.n_kv_heads * partial_floats(shape);
        const size_t n_units = n_tasks * max_chunks_;
        for (size_t i; (i = counter.fetch_add(1, std::memory_order_relaxed)) < n_units;) {
            const size_t task_index = i / max_chunks_, chunk = i % max_chunks_;
            const Segment& seg = batch.segments[task_index / shape.n_kv_heads];
            const AttentionTask task = make_task(seg, task_index % shape.n_kv_heads, 0, 1);
            uint32_t first, last;
            visible_chunks(shape, task.position, task.n_keys, &first, &last);
            if (chunk < first || chunk >= last) continue;
            attention_.attend_chunk(shape, task, static_cast<uint32_t>(chunk),
                                    partials_.data() + (task_index * max_chunks_ + chunk) * head_floats,
                                    thread.attend);
        }
        pool_->barrier();
        const auto [begin, end] = share(n_tasks, t);
        for (size_t i = begin; i < end; ++i) {
            const Segment& seg = batch.segments[i / shape.n_kv_heads];
            const AttentionTask task = make_task(seg, i % shape.n_kv_heads, 0, 1);
            uint32_t first, last;
            visible_chunks(shape, task.position, task.n_keys, &first, &last);
            attention_.merge(shape, task, first, last,
                             partials_.data() + (i * max_chunks_ + first) * head_floats, head_floats);
        }
        return;
    }
    for (size_t i; (i = counter.fetch_add(1, std::memory_order_relaxed)) < n_tasks;) {
        size_t left = n_tasks - 1 - i;  // last queries first: they see most keys
        for (const Segment& seg : batch.segments) {
            const size_t tiles = (seg.n_rows + queries - 1) / queries;
            if (left >= tiles * shape.n_kv_heads) {
                left -= tiles * shape.n_kv_heads;
                continue;
            }
            const size_t query = left / shape.n_kv_heads * queries;
            const AttentionTask task =
                make_task(seg, left % shape.n_kv_heads, query, std::min(queries, seg.n_rows - query));
            attention_.attend(shape, task, thread.attend);
            break;
        }
    }
}

// ---- recurrent state ----

void Executor::run_state(size_t s, size_t t) {
    const StateStage& st = plan_.stages[s].state;
    const size_t units = st.kind == OpKind::kShortConv ? st.out.width : st.n_heads;
    const auto [begin, end] = share(units, t);
    if (begin == end) return;
    for (const Segment& seg : batch.segments) {
        float* state = seg.sequence->state.data() + st.state_offset;
        const auto in = [&](size_t i) -> TokenInput {
            return {at(st.ins[i], seg.first_row, nullptr), st.ins[i].ld};
        };
        const TokenOutput out{at(st.out, seg.first_row, nullptr), st.out.ld};
        if (st.kind == OpKind::kShortConv) {
            state_.short_conv({.x = in(0),
                               .y = out,
                               .n_tokens = seg.n_rows,
                               .width = st.out.width,
                               .taps = st.taps,
                               .weight = vector(st.weight),
                               .bias = vector(st.bias),
                               .silu = st.silu,
                               .state = state},
                              begin, end);
        } else if (st.kind == OpKind::kGatedDelta) {
            state_.gated_delta({.q = in(0),
                                .k = in(1),
                                .v = in(2),
                                .decay = in(3),
                                .beta = in(4),
                                .y = out,
                                .n_tokens = seg.n_rows,
                                .n_heads = st.n_heads,
                                .n_key_heads = st.n_key_heads,
                                .key_dim = st.key_dim,
                                .value_dim = st.value_dim,
                                .scale = st.scale,
                                .tiled = st.tiled,
                                .state = state},
                               begin, end);
        } else {
            state_.ssm({.x = in(0),
                        .b = in(1),
                        .c = in(2),
                        .dt = in(3),
                        .a = vector(st.a),
                        .d = vector(st.d),
                        .dt_bias = vector(st.dt_bias),
                        .y = out,
                        .n_tokens = seg.n_rows,
                        .n_heads = st.n_heads,
                        .head_dim = st.value_dim,
                        .n_groups = st.n_key_heads,
                        .d_state = st.key_dim,
                        .state = state},
                       begin, end);
        }
    }
}

}  // namespace edgellm
