// SPDX-License-Identifier: MIT
#include "runtime/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/os/os.h"
#include "base/thread_pool.h"

namespace edgellm {
namespace {

constexpr size_t kUnitPanels = 8;  // panels that one thread packs at a time

// The entry of each weight of the program. Throws ModelError for a weight without one.
template <class Named>
std::vector<const Named*> by_weight(const Program& program, const std::vector<Named>& entries) {
    std::map<std::string_view, const Named*> by_name;
    for (const Named& entry : entries) by_name[entry.name] = &entry;
    std::vector<const Named*> ordered;
    for (const WeightDecl& weight : program.weights) {
        const auto it = by_name.find(weight.name);
        if (it == by_name.end()) throw ModelError("the tensor " + weight.name + " is missing");
        ordered.push_back(it->second);
    }
    return ordered;
}

[[noreturn]] void refuse_not_finite(const WeightDecl& weight) {
    throw ModelError("the tensor " + weight.name + " holds a value that is not finite; the file is damaged");
}

// Tells the system that the whole pages inside [data, data + n) can be dropped; they come back from the file
// if read again.
void drop_pages(const uint8_t* data, size_t n) {
    const uintptr_t page = os::page_size();
    const uintptr_t begin = align_up(reinterpret_cast<uintptr_t>(data), page);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + n) / page * page;
    if (begin < end) os::drop_file_pages(reinterpret_cast<void*>(begin), end - begin);
}

constexpr float kLog2E = 1.44269504f;

// T5's bucket (arXiv 1910.10683) of a distance between a query and a key, which is earlier or later.
size_t distance_bucket(const DistanceBias& bias, size_t distance, bool later) {
    const size_t half = bias.n_buckets / 2, exact = half / 2;
    size_t bucket = distance;
    if (distance >= exact) {
        const auto ratio = [&](size_t n) {
            return std::log(static_cast<double>(n) / static_cast<double>(exact));
        };
        // Boundaries between buckets are powers, whose logarithms need not be exact.
        const double steps = ratio(distance) / ratio(bias.max_distance) * static_cast<double>(half - exact);
        bucket = std::min(half - 1, exact + static_cast<size_t>(steps + 1e-6));
    }
    return later ? half + bucket : bucket;
}

// Packs one matrix, kUnitPanels at a time, together with other threads that do the same.
class MatrixPacker {
  public:
    MatrixPacker(const MatrixUse& use, const FormatInfo& format, const TensorSource& source, uint8_t* memory)
        : use_(use),
          source_(source),
          memory_(memory + use.offset),
          row_bytes_(row_bytes(format, use.packed.n_in)),
          units_per_expert_((use.packed.n_panels + kUnitPanels - 1) / kUnitPanels),
          n_units_(units_per_expert_ * use.n_experts) {}

    void run(const LinearKernels& kernels, bool release) {
        for (size_t unit; (unit = taken_.fetch_add(1, std::memory_order_relaxed)) < n_units_;) {
            pack(kernels, unit, release);
        }
    }
    bool finite() const { return finite_.load(std::memory_order_relaxed); }

  private:
    void pack(const LinearKernels& kernels, size_t unit, bool release) {
        const size_t expert = unit / units_per_expert_, first = unit % units_per_expert_ * kUnitPanels;
        const size_t last = std::min(use_.packed.n_panels, first + kUnitPanels);
        const uint8_t* rows = source_.data + (expert * use_.expert_rows + use_.row_first) * row_bytes_;
        if (!kernels.pack(use_.packed, rows, first, last, memory_ + expert * use_.expert_stride))
            finite_.store(false, std::memory_order_relaxed);
        if (!release) return;
        // At once, so that source and packed copy of a large tensor are never in memory together.
        const size_t first_row = first * kPanelRows;
        const size_t n_rows = std::min(last * kPanelRows, size_t{use_.packed.n_out}) - first_row;
        drop_pages(rows + first_row * row_bytes_, n_rows * row_bytes_);
        // Pages that were read ahead of other units go with the last one.
        if (packed_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_units_)
            drop_pages(source_.data, source_.n_bytes);
    }

    const MatrixUse& use_;
    const TensorSource& source_;
    uint8_t* memory_;
    size_t row_bytes_, units_per_expert_, n_units_;
    std::atomic<size_t> taken_{0}, packed_{0};
    std::atomic<bool> finite_{true};
};

}  // namespace

std::vector<const FormatInfo*> weight_formats(const Program& program, const std::vector<TensorType>& types) {
    std::vector<const FormatInfo*> formats;
    for (const TensorType* tensor : by_weight(program, types)) {
        formats.push_back(find_format(tensor->type));
        if (formats.back() == nullptr) {
            throw ModelError("the tensor " + tensor->name + " has type number " +
                             std::to_string(tensor->type) + ", which is no weight format");
        }
    }
    return formats;
}

void Weights::load(const std::vector<TensorSource>& tensors, bool release, ThreadPool* pool) {
    const Sources sources = checked_sources(tensors);
    load_vectors(sources);
    load_frequencies();
    load_biases();
    load_embeddings(sources);
    load_matrices(sources, release, pool);
    // Reading ahead has brought back pages that were dropped.
    for (const TensorSource* source : sources) {
        if (release) drop_pages(source->data, source->n_bytes);
    }
}

Weights::Sources Weights::checked_sources(const std::vector<TensorSource>& tensors) const {
    Sources sources = by_weight(program_, tensors);
    for (size_t i = 0; i < sources.size(); ++i) {
        const WeightDecl& weight = program_.weights[i];
        if (sources[i]->type != static_cast<uint32_t>(formats_[i]->type))
            throw ModelError("the tensor " + weight.name + " is not of the type that was planned");
        const auto elements = static_cast<size_t>(weight.elements());
        const auto columns = static_cast<size_t>(weight.shape.back());
        const size_t expected = row_bytes(*formats_[i], columns) * (elements / columns);
        if (expected == 0 || sources[i]->n_bytes != expected) {
            throw ModelError("the tensor " + weight.name + " has " + std::to_string(sources[i]->n_bytes) +
                             " bytes, expected " + std::to_string(expected));
        }
    }
    return sources;
}

void Weights::load_vectors(const Sources& sources) {
    vectors_.assign(plan_.vectors.size(), {});
    for (size_t id = 0; id < vectors_.size(); ++id) {
        const auto w = static_cast<size_t>(plan_.vectors[id]);
        const WeightDecl& weight = program_.weights[w];
        std::vector<float>& values = vectors_[id];
        values.resize(static_cast<size_t>(weight.elements()));
        formats_[w]->decode(sources[w]->data, values.size() / formats_[w]->block_size, values.data());
        if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
            refuse_not_finite(weight);
    }
}

void Weights::load_frequencies() {
    frequencies_.clear();
    for (const AngleSet& set : plan_.angles) {
        std::vector<double> frequencies = program_.tables[static_cast<size_t>(set.table)].inv_freq;
        if (const float* factors = vector(set.factors)) {
            for (size_t i = 0; i < set.n_pairs; ++i) frequencies[i] /= static_cast<double>(factors[i]);
        }
        frequencies_.push_back(std::move(frequencies));
    }
}

void Weights::load_biases() {
    biases_.clear();
    const size_t reach = bias_reach();
    for (const DistanceBias& bias : plan_.biases) {
        const float* buckets = vector(bias.buckets);
        std::vector<float>& values = biases_.emplace_back(bias.n_heads * bias_stride());
        for (size_t i = 0; i < 2 * reach; ++i) {
            const size_t distance = i < reach ? reach - i : i - reach;
            const bool alibi = !bias.slopes.empty();
            const float* row = alibi ? bias.slopes.data()
                                     : buckets + bias.n_heads * distance_bucket(bias, distance, i > reach);
            const float scale = alibi ? -kLog2E * static_cast<float>(distance) : kLog2E;
            for (size_t h = 0; h < bias.n_heads; ++h) values[h * bias_stride() + i] = row[h] * scale;
        }
    }
}

void Weights::load_embeddings(const Sources& sources) {
    embeddings_.clear();
    for (const int weight : plan_.embeddings) {
        const auto w = static_cast<size_t>(weight);
        const auto columns = static_cast<size_t>(program_.weights[w].shape.back());
        embeddings_.push_back(
            {formats_[w], sources[w]->data, row_bytes(*formats_[w], columns), sources[w]->n_bytes});
    }
}

void Weights::load_matrices(const Sources& sources, bool release, ThreadPool* pool) {
    memory_ = Region(plan_.weight_bytes, true);
    matrices_.clear();
    std::vector<std::unique_ptr<MatrixPacker>> packers;
    for (const MatrixUse& use : plan_.matrices) {
        const auto w = static_cast<size_t>(use.weight);
        matrices_.push_back(use.packed);
        matrices_.back().data = memory_.data() + use.offset;
        packers.push_back(std::make_unique<MatrixPacker>(use, *formats_[w], *sources[w], memory_.data()));
    }
    const LinearKernels& kernels = linear_kernels(plan_.options.isa);
    pool->run([&](size_t) {
        for (const auto& packer : packers) packer->run(kernels, release);
    });
    for (size_t i = 0; i < packers.size(); ++i) {
        if (!packers[i]->finite())
            refuse_not_finite(program_.weights[static_cast<size_t>(plan_.matrices[i].weight)]);
    }
}

void Weights::drop_embedding_pages() const {
    for (const EmbeddingTable& table : embeddings_) drop_pages(table.rows, table.n_bytes);
}

size_t Weights::bytes() const {
    size_t bytes = plan_.weight_bytes;
    for (const int w : plan_.vectors) {
        bytes += static_cast<size_t>(program_.weights[static_cast<size_t>(w)].elements()) * sizeof(float);
    }
    for (const DistanceBias& bias : plan_.biases) bytes += bias.n_heads * bias_stride() * sizeof(float);
    return bytes;
}

}  // namespace edgellm
