// SPDX-License-Identifier: MIT
// The weights of a model: the only owner of packed matrices, float32 vectors and embedding tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/memory.h"
#include "formats/formats.h"
#include "kernels/linear/linear.h"
#include "program/program.h"
#include "runtime/plan.h"

namespace edgellm {

class ThreadPool;

struct TensorType {
    std::string name;
    uint32_t type;  // format number of the file
};

struct TensorSource {
    std::string name;
    uint32_t type;
    const uint8_t* data;
    size_t n_bytes;
};

// Formats of the program's weights, in their order. Throws ModelError for a weight that is missing or has no
// known format.
std::vector<const FormatInfo*> weight_formats(const Program& program, const std::vector<TensorType>& types);

// An embedding's rows, in the file's format where the file has them.
struct EmbeddingTable {
    const FormatInfo* format;
    const uint8_t* rows;
    size_t row_bytes, n_bytes;
};

class Weights {
  public:
    // formats: of each weight of the program. All three must outlive the weights.
    Weights(const Program& program, const std::vector<const FormatInfo*>& formats, const ExecutionPlan& plan)
        : program_(program), formats_(formats), plan_(plan) {}

    // Packs matrices on all threads, tensor by tensor, and decodes vectors. Embedding rows are read where
    // they are: the data must outlive the weights. release: lets the system drop packed source pages; only
    // for data in a file mapping, from which they come back when they are read again. Throws ModelError
    // naming the tensor that is missing, misshapen or not finite.
    void load(const std::vector<TensorSource>& tensors, bool release, ThreadPool* pool);

    // nullptr for -1.
    const float* vector(VectorId id) const {
        return id < 0 ? nullptr : vectors_[static_cast<size_t>(id)].data();
    }
    const PackedMatrix& matrix(MatrixId id) const { return matrices_[static_cast<size_t>(id)]; }
    PackedMatrix expert(MatrixId id, size_t expert) const {
        PackedMatrix m = matrix(id);
        m.data += expert * plan_.matrix(id).expert_stride;
        return m;
    }
    const EmbeddingTable& embedding(size_t table) const { return embeddings_[table]; }
    // The bias of a distance of 0 of the first head, as the attention kernels read it; nullptr for -1.
    const float* bias(int id) const {
        return id < 0 ? nullptr : biases_[static_cast<size_t>(id)].data() + bias_reach();
    }
    size_t bias_stride() const { return 2 * bias_reach(); }
    // Frequencies of an angle set of the plan, after its factors: n_pairs values.
    const double* frequencies(size_t angle_set) const { return frequencies_[angle_set].data(); }

    // Tells the system that embedding pages can be dropped.
    void drop_embedding_pages() const;
    // Bytes of matrices and vectors, known before they are loaded.
    size_t bytes() const;

  private:
    using Sources = std::vector<const TensorSource*>;  // by weight

    Sources checked_sources(const std::vector<TensorSource>& tensors) const;
    void load_vectors(const Sources& sources);
    void load_frequencies();
    void load_biases();
    // Distances on each side of a query, up to the end of a block.
    size_t bias_reach() const { return align_up(plan_.options.context, kKvBlockTokens); }
    void load_embeddings(const Sources& sources);
    void load_matrices(const Sources& sources, bool release, ThreadPool* pool);

    const Program& program_;
    const std::vector<const FormatInfo*>& formats_;
    const ExecutionPlan& plan_;
    Region memory_;  // of all matrices
    std::vector<PackedMatrix> matrices_;
    std::vector<std::vector<float>> vectors_;
    std::vector<EmbeddingTable> embeddings_;
    std::vector<std::vector<double>> frequencies_;
    std::vector<std::vector<float>> biases_;  // [head][distance]
};

}  // namespace edgellm
