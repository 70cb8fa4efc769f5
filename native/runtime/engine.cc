// SPDX-License-Identifier: MIT
#include "runtime/engine.h"

#include <algorithm>
#include <utility>

#include "base/os/os.h"

namespace edgellm {
namespace {

PlanOptions plan_options(const EngineOptions& o) {
    return {o.threads, o.batch, o.kv_type, o.isa, o.context};
}

}  // namespace

Engine::Engine(std::string_view program, const std::vector<TensorType>& types, const EngineOptions& options)
    : options_(options),
      program_(parse_program(program)),
      formats_(weight_formats(program_, types)),
      plan_(make_plan(program_, formats_, plan_options(options))),
      weights_(program_, formats_, plan_),
      adapters_(plan_, program_),
      pool_(options.threads, options.threads <= os::usable_cpus(), CoreKinds(options.speeds)) {
    segment_ids_.reserve(options.batch);
}

MemoryUse Engine::memory() const {
    MemoryUse use{};
    use.weights = weights_.bytes();
    use.cache = SequenceStore::bytes_per_token(plan_) * options_.cache_tokens;
    use.state_per_sequence = plan_.state_floats * sizeof(float);
    use.scratch =
        options_.batch * (plan_.arena_floats_per_row * sizeof(float) + plan_.quant_bytes_per_row +
                          plan_.angle_floats_per_row * sizeof(float) + plan_.max_used * plan_.moe_row_bytes) +
        options_.threads * plan_.private_bytes;
    use.adapters = adapters_.weight_bytes() +
                   options_.batch * sizeof(float) * (adapters_.lora_a_floats() + adapters_.size());
    return use;
}

void Engine::load(const std::vector<TensorSource>& tensors, bool release) {
    sequences_ = std::make_unique<SequenceStore>(plan_, options_.cache_tokens, options_.context);
    executor_ = std::make_unique<Executor>(plan_, program_, weights_, adapters_, &pool_, options_.context);
    try {
        weights_.load(tensors, release, &pool_);
        adapters_.pack();
    } catch (...) {
        executor_.reset();
        throw;
    }
    release_ = release;
    // Memory that loading freed lies in the allocator: an engine that runs does not need it.
    if (release) os::trim_heap();
}

StepStatus Engine::make_batch(const int32_t* tokens, const int32_t* sequences, size_t n) {
    if (n == 0 || n > options_.batch) return StepStatus::kTooManyTokens;
    for (size_t i = 0; i < n; ++i) {
        if (tokens[i] < 0 || tokens[i] >= program_.n_vocab) return StepStatus::kBadToken;
    }
    const StepStatus status = make_segments(sequences, n);
    if (status != StepStatus::kOk) return status;
    Batch& b = executor_->batch();
    b.n_rows = n;
    b.tokens.assign(tokens, tokens + n);
    b.positions.resize(n);
    return reserve_segments();
}

StepStatus Engine::make_segments(const int32_t* sequences, size_t n) {
    std::vector<Segment>& segments = executor_->batch().segments;
    segments.clear();
    segment_ids_.clear();
    for (size_t i = 0; i < n; ++i) {
        if (i > 0 && sequences[i] == sequences[i - 1]) continue;
        const bool seen =
            std::find(segment_ids_.begin(), segment_ids_.end(), sequences[i]) != segment_ids_.end();
        if (seen || !sequences_->valid(sequences[i])) return StepStatus::kBadSequence;
        segment_ids_.push_back(sequences[i]);
        segments.push_back({nullptr, i, 0, 0});
    }
    return StepStatus::kOk;
}

StepStatus Engine::reserve_segments() {
    Batch& b = executor_->batch();
    StepStatus status = StepStatus::kOk;
    size_t reserved = 0;
    for (; reserved < b.segments.size() && status == StepStatus::kOk; ++reserved) {
        Segment& seg = b.segments[reserved];
        const int32_t id = segment_ids_[reserved];
        const bool is_last = reserved + 1 == b.segments.size();
        seg.n_rows = (is_last ? b.n_rows : b.segments[reserved + 1].first_row) - seg.first_row;
        seg.sequence = &sequences_->at(id);
        seg.position = seg.sequence->n_tokens;
        if (seg.position + seg.n_rows > sequences_->context()) {
            status = StepStatus::kContextFull;
        } else if (!sequences_->reserve(id, seg.n_rows)) {
            status = StepStatus::kCacheFull;
        }
        for (size_t i = 0; i < seg.n_rows; ++i)
            b.positions[seg.first_row + i] = static_cast<uint32_t>(seg.position + i);
    }
    if (status != StepStatus::kOk) {
        // The last of them, which failed, has reserved nothing: nothing is given back for it.
        for (size_t s = 0; s < reserved; ++s) sequences_->unreserve(segment_ids_[s]);
    }
    return status;
}

void Engine::finish_batch() {
    // A row read from a file mapping brings its neighbours' pages along: they are dropped before they add up.
    constexpr size_t kRowsBetweenDrops = 8;
    embedded_rows_ += executor_->batch().n_rows;
    if (release_ && embedded_rows_ >= kRowsBetweenDrops) {
        weights_.drop_embedding_pages();
        embedded_rows_ = 0;
    }
    for (size_t s = 0; s < segment_ids_.size(); ++s) {
        sequences_->advance(segment_ids_[s], executor_->batch().segments[s].n_rows);
    }
}

StepStatus Engine::step(const int32_t* tokens, const int32_t* sequences, const uint8_t* outputs, size_t n,
                        size_t n_largest, float* logits) {
    const StepStatus status = make_batch(tokens, sequences, n);
    if (status != StepStatus::kOk) return status;
    auto& rows = executor_->batch().output_rows;
    rows.clear();
    for (size_t i = 0; i < n; ++i) {
        if (outputs[i] != 0) rows.push_back(static_cast<uint32_t>(i));
    }
    executor_->run(logits, n_largest);
    finish_batch();
    return StepStatus::kOk;
}

StepStatus Engine::hidden(const int32_t* tokens, std::span<const uint32_t> lengths,
                          const std::vector<float>& scales, float* out) {
    size_t n = 0;
    for (const uint32_t length : lengths) n += length;
    // Every token of an encoder sees the whole text, which is read in one batch.
    const bool encoder = program_.logits < 0 && program_.caches.empty();
    const bool whole = encoder || lengths.size() > 1;
    if (n == 0 || (whole && n > options_.batch)) return StepStatus::kTooManyTokens;
    std::vector<int32_t> opened, owners;
    for (const uint32_t length : lengths) {
        opened.push_back(sequences_->open(scales));
        owners.insert(owners.end(), length, opened.back());
    }
    StepStatus status = StepStatus::kOk;
    for (size_t start = 0; start < n && status == StepStatus::kOk; start += options_.batch) {
        status = make_batch(tokens + start, owners.data() + start, std::min(options_.batch, n - start));
        if (status != StepStatus::kOk) break;
        executor_->run_hidden(out + start * hidden_width());
        finish_batch();
    }
    for (const int32_t id : opened) sequences_->close(id);
    return status;
}

size_t Engine::hidden_width() const {
    return static_cast<size_t>(program_.ops[static_cast<size_t>(program_.hidden)].width);
}

}  // namespace edgellm
