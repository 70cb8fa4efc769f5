// SPDX-License-Identifier: MIT
// Encoding with error feedback: the error of columns that are done is made up for by those that follow.
//
// An output's square error is e H e^T, with e the error of a row of weights and H the second moments of the
// inputs. With H = U D U^T, U unit upper triangular, that is the sum over columns k of
// D_k (e_k + sum over j < k of e_j U_jk)^2. So each column in turn is rounded to the nearest level of its
// weight plus the sum, whose share of the error only its own rounding is left of. Columns are reordered
// block by block, and inside blocks: those of large moments come first.
//
// Source: GPTQ (arXiv 2210.17323) in the form of LDLQ (QuIP, arXiv 2307.13304). Scales are searched by the
// format's encoder for each block of a row when its turn comes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "matrix/matrix.h"
#include "quantize/quantize.h"

namespace edgellm {

class Feedback {
  public:
    // moments: (n, n), symmetric, finite, sums or means; n a multiple of block, which is a multiple of 32.
    // Moments of different columns count 1 - shrink of what they are: texts are short, and others will be
    // read. damp: added to each column's own, of the mean one.
    Feedback(const MatrixKernels& kernels, ThreadPool& pool, const float* moments, size_t n, size_t block,
             double shrink, double damp);

    // False if the moments are not those of any inputs; the rest cannot be used then.
    bool valid() const { return valid_; }
    size_t columns() const { return order_.size(); }
    size_t block() const { return block_; }

    // x: (rows, n); out: rows * row_bytes(format, n). The format's blocks have block() values, and it takes
    // feedback.
    EncodeStatus encode(ThreadPool& pool, const Encoder& encoder, const FormatInfo& format, const float* x,
                        size_t rows, uint8_t* out) const;

  private:
    struct Rows;
    EncodeStatus encode_block(const Encoder& encoder, const FormatInfo& format, size_t start,
                              Rows& work) const;

    const MatrixKernels& kernels_;
    size_t block_;
    bool valid_ = false;
    std::vector<uint32_t> order_;    // column that is encoded k-th
    std::vector<float> importance_;  // of columns
    std::vector<float> panels_;      // U in processing order: kPanel columns of it after another
};

// True for formats that have codes to choose under given scales.
bool takes_feedback(GGMLType type);

}  // namespace edgellm
