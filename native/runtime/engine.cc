// SPDX-License-Identifier: MIT
#include "runtime/engine.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"

namespace edgellm {
namespace {

std::vector<uint32_t> order_types(const Program& program,
                                  const std::vector<std::pair<std::string, uint32_t>>& types) {
    std::map<std::string_view, uint32_t> by_name;
    for (const auto& [name, type] : types) by_name[name] = type;
    std::vector<uint32_t> ordered;
    for (const WeightDecl& w : program.weights) {
        const auto it = by_name.find(w.name);
        if (it == by_name.end()) throw ModelError("the tensor " + w.name + " is missing");
        if (find_format(it->second) == nullptr) {
            throw ModelError("the tensor " + w.name + " has type number " + std::to_string(it->second) +
                             ", which is no weight format");
        }
        ordered.push_back(it->second);
    }
    return ordered;
}

PlanOptions plan_options(const EngineOptions& o) {
    return {o.threads, o.batch, o.kv_type, o.isa};
}

// Tells the system that the whole pages inside [data, data + n) can be dropped; they come back from the file
// if read again.
void drop_pages(const uint8_t* data, size_t n) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = align_up(reinterpret_cast<uintptr_t>(data), page);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + n) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

Engine::Engine(std::string_view program, const std::vector<std::pair<std::string, uint32_t>>& types,
               const EngineOptions& options)
    : options_(options),
      program_(parse_program(program)),
      types_(order_types(program_, types)),
      plan_(make_plan(program_, types_, plan_options(options))),
      adapters_(plan_, program_),
      pool_(options.threads, options.threads <= allowed_cpus()) {
    segment_ids_.reserve(options.batch);
}

MemoryUse Engine::memory() const {
    MemoryUse use{};
    use.weights = plan_.weight_bytes;
    for (int w : plan_.vectors) {
        use.weights +=
            static_cast<size_t>(program_.weights[static_cast<size_t>(w)].elements()) * sizeof(float);
    }
    use.cache = SequenceStore::bytes_per_token(plan_) * options_.cache_tokens;
    use.state_per_sequence = plan_.state_floats * sizeof(float);
    use.scratch =
        options_.batch * (plan_.arena_floats_per_row * sizeof(float) + plan_.quant_bytes_per_row +
                          plan_.angle_floats_per_row * sizeof(float) + plan_.max_used * plan_.moe_row_bytes) +
        options_.threads * plan_.private_bytes;
    use.adapters = adapters_.weight_bytes() +
                   options_.batch * sizeof(float) * (adapters_.low_floats() + adapters_.size());
    return use;
}

void Engine::load_vector(size_t id, const TensorSource& source) {
    const FormatInfo* format = find_format(source.type);
    const WeightDecl& decl = program_.weights[static_cast<size_t>(plan_.vectors[id])];
    auto& values = executor_->vectors[id];
    values.resize(static_cast<size_t>(decl.elements()));
    format->decode(source.data, values.size() / format->block_size, values.data());
    for (float v : values) {
        if (!std::isfinite(v))
            throw ModelError("the tensor " + decl.name +
                             " holds a value that is not finite; the file is damaged");
    }
    // A rope table divided by per-pair factors becomes a table of its own.
    for (AngleSet& set : plan_.angles) {
        if (set.factors != static_cast<VectorId>(id)) continue;
        RopeTable table = program_.tables[static_cast<size_t>(set.table)];
        for (size_t i = 0; i < set.n_pairs; ++i) table.inv_freq[i] /= static_cast<double>(values[i]);
        set.table = static_cast<int>(program_.tables.size());
        program_.tables.push_back(std::move(table));
    }
}

void Engine::load(const std::vector<TensorSource>& tensors, bool release) {
    try {
        load_all(tensors, release);
    } catch (...) {
        executor_.reset();
        throw;
    }
}

void Engine::load_all(const std::vector<TensorSource>& tensors, bool release) {
    std::map<std::string_view, const TensorSource*> by_name;
    for (const TensorSource& t : tensors) by_name[t.name] = &t;
    std::vector<const TensorSource*> sources;
    for (size_t i = 0; i < program_.weights.size(); ++i) {
        const WeightDecl& decl = program_.weights[i];
        const auto it = by_name.find(decl.name);
        if (it == by_name.end()) throw ModelError("the tensor " + decl.name + " is missing");
        const FormatInfo* format = find_format(it->second->type);
        if (it->second->type != types_[i])
            throw ModelError("the tensor " + decl.name + " is not of the type that was planned");
        const auto elements = static_cast<size_t>(decl.elements());
        const auto columns = static_cast<size_t>(decl.shape.back());
        const size_t expected = row_bytes(*format, columns) * (elements / columns);
        if (expected == 0 || it->second->n_bytes != expected) {
            throw ModelError("the tensor " + decl.name + " has " + std::to_string(it->second->n_bytes) +
                             " bytes, expected " + std::to_string(expected));
        }
        sources.push_back(it->second);
    }

    sequences_ = std::make_unique<SequenceStore>(plan_, options_.cache_tokens, options_.context);
    executor_ = std::make_unique<Executor>(plan_, program_, adapters_, &pool_, options_.context);
    executor_->vectors.resize(plan_.vectors.size());
    for (size_t id = 0; id < plan_.vectors.size(); ++id)
        load_vector(id, *sources[static_cast<size_t>(plan_.vectors[id])]);
    for (int w : plan_.embeddings) {
        const TensorSource& s = *sources[static_cast<size_t>(w)];
        const FormatInfo* format = find_format(s.type);
        const auto columns = static_cast<size_t>(program_.weights[static_cast<size_t>(w)].shape.back());
        executor_->embeddings.push_back({format, s.data, row_bytes(*format, columns), s.n_bytes});
    }

    weights_ = Region(plan_.weight_bytes, true);
    const LinearKernels& kernels = linear_kernels(options_.isa);
    constexpr size_t kPanels = 8;  // of one unit of packing
    std::vector<std::atomic<uint32_t>> taken(plan_.matrices.size()), packed(plan_.matrices.size());
    std::atomic<int> bad{-1};
    for (const MatrixUse& m : plan_.matrices) executor_->matrix_data.push_back(weights_.data() + m.offset);
    pool_.run([&](size_t) {
        for (size_t i = 0; i < plan_.matrices.size(); ++i) {
            const MatrixUse& m = plan_.matrices[i];
            const TensorSource& source = *sources[static_cast<size_t>(m.weight)];
            const size_t row = row_bytes(*find_format(source.type), m.packed.n_in);
            const size_t per_expert = (m.packed.n_panels + kPanels - 1) / kPanels;
            const size_t n_units = per_expert * m.n_experts;
            for (size_t unit; (unit = taken[i].fetch_add(1, std::memory_order_relaxed)) < n_units;) {
                const size_t expert = unit / per_expert, first = unit % per_expert * kPanels;
                const size_t last = std::min(m.packed.n_panels, first + kPanels);
                const uint8_t* rows = source.data + (expert * m.expert_rows + m.row_first) * row;
                if (!kernels.pack(m.packed, rows, first, last,
                                  weights_.data() + m.offset + expert * m.expert_stride)) {
                    bad.store(m.weight, std::memory_order_relaxed);
                }
                // At once, so that source and packed copy of a large tensor are never in memory together.
                if (release) {
                    const size_t n_rows =
                        std::min(last * kPanelRows, size_t{m.packed.n_out}) - first * kPanelRows;
                    drop_pages(rows + first * kPanelRows * row, n_rows * row);
                    // What was read ahead of others' units goes with the last one.
                    if (packed[i].fetch_add(1, std::memory_order_acq_rel) + 1 == n_units)
                        drop_pages(source.data, source.n_bytes);
                }
            }
        }
    });
    adapters_.pack();
    release_ = release;
    if (release) {
        // Reading ahead has brought back pages that were dropped, and what loading freed lies in the
        // allocator: an engine that runs needs neither.
        for (const TensorSource* source : sources) drop_pages(source->data, source->n_bytes);
#if defined(__GLIBC__)
        malloc_trim(0);
#endif
    }
    if (bad.load() >= 0) {
        throw ModelError("the tensor " + program_.weights[static_cast<size_t>(bad.load())].name +
                         " holds a value that is not finite; the file is damaged");
    }
}

StepStatus Engine::make_batch(const int32_t* tokens, const int32_t* sequences, size_t n) {
    if (n == 0 || n > options_.batch) return StepStatus::kTooManyTokens;
    Batch& b = executor_->batch;
    b.n_rows = n;
    b.tokens.assign(tokens, tokens + n);
    b.positions.resize(n);
    b.segments.clear();
    segment_ids_.clear();
    for (size_t i = 0; i < n; ++i) {
        if (tokens[i] < 0 || tokens[i] >= program_.n_vocab) return StepStatus::kBadToken;
        if (i > 0 && sequences[i] == sequences[i - 1]) continue;
        if (!sequences_->valid(sequences[i])) return StepStatus::kBadSequence;
        for (int32_t seen : segment_ids_) {
            if (seen == sequences[i]) return StepStatus::kBadSequence;  // its tokens are not consecutive
        }
        segment_ids_.push_back(sequences[i]);
        b.segments.push_back({nullptr, i, 0, 0});
    }
    size_t reserved = 0;
    StepStatus status = StepStatus::kOk;
    for (size_t s = 0; s < b.segments.size(); ++s) {
        Segment& seg = b.segments[s];
        seg.n_rows = (s + 1 < b.segments.size() ? b.segments[s + 1].first_row : n) - seg.first_row;
        seg.sequence = &sequences_->at(segment_ids_[s]);
        seg.position = seg.sequence->n_tokens;
        if (seg.position + seg.n_rows > sequences_->context()) {
            status = StepStatus::kContextFull;
        } else if (!sequences_->reserve(segment_ids_[s], seg.n_rows)) {
            status = StepStatus::kCacheFull;
        }
        if (status != StepStatus::kOk) break;
        ++reserved;
        for (size_t i = 0; i < seg.n_rows; ++i)
            b.positions[seg.first_row + i] = static_cast<uint32_t>(seg.position + i);
    }
    if (status != StepStatus::kOk) {
        for (size_t s = 0; s < reserved; ++s) sequences_->unreserve(segment_ids_[s]);
    }
    return status;
}

void Engine::finish_batch() {
    // A row read from a file mapping brings its neighbours' pages along; let go of them before they add up.
    constexpr size_t kRowsBetweenDrops = 8;
    embedded_rows_ += executor_->batch.n_rows;
    if (release_ && embedded_rows_ >= kRowsBetweenDrops) {
        for (const EmbeddingTable& table : executor_->embeddings) drop_pages(table.rows, table.n_bytes);
        embedded_rows_ = 0;
    }
    for (size_t s = 0; s < segment_ids_.size(); ++s) {
        sequences_->advance(segment_ids_[s], executor_->batch.segments[s].n_rows);
    }
}

StepStatus Engine::step(const int32_t* tokens, const int32_t* sequences, const uint8_t* outputs, size_t n,
                        size_t n_largest, float* logits) {
    const StepStatus status = make_batch(tokens, sequences, n);
    if (status != StepStatus::kOk) return status;
    auto& rows = executor_->batch.output_rows;
    rows.clear();
    for (size_t i = 0; i < n; ++i) {
        if (outputs[i] != 0) rows.push_back(static_cast<uint32_t>(i));
    }
    executor_->run(logits, n_largest);
    finish_batch();
    return StepStatus::kOk;
}

StepStatus Engine::hidden(const int32_t* tokens, size_t n, std::vector<float> scales, float* out) {
    // Every token of an encoder sees every other one: its texts are one batch.
    const bool encoder = program_.logits < 0;
    if (n == 0 || (encoder && n > options_.batch)) return StepStatus::kTooManyTokens;
    const int32_t id = sequences_->open(std::move(scales));
    StepStatus status = StepStatus::kOk;
    for (size_t start = 0; start < n && status == StepStatus::kOk; start += options_.batch) {
        const size_t n_rows = std::min(options_.batch, n - start);
        const std::vector<int32_t> ids(n_rows, id);
        status = make_batch(tokens + start, ids.data(), n_rows);
        if (status != StepStatus::kOk) break;
        executor_->run_hidden(out + start * program_.width);
        finish_batch();
    }
    sequences_->close(id);
    return status;
}

}  // namespace edgellm
