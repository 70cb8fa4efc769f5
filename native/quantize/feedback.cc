// SPDX-License-Identifier: MIT
#include "quantize/feedback.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <numeric>

#include "base/share.h"
#include "formats/codes.h"
#include "formats/list.h"

namespace edgellm {
namespace {

constexpr size_t kWidth = kPanel<float>;
// Rows that are encoded together, and columns between which errors are passed on one by one.
constexpr size_t kRows = 24, kColumns = 32;

// Codes 0 .. top of a format; levels: the value of each, or null where that is the code.
struct Codes {
    GGMLType type;
    int top;
    const int8_t* levels;
    void (*store)(const uint8_t* codes, size_t n_blocks, uint8_t* blocks);

    float level(int code) const { return static_cast<float>(levels == nullptr ? code : levels[code]); }
    int nearest(float x) const {
        if (levels == nullptr) {
            constexpr float kShift = 12582912.0f;  // leaves no fraction
            return static_cast<int>(std::clamp(x, 0.0f, static_cast<float>(top)) + kShift - kShift);
        }
        int code = 0;
        for (int i = 1; i <= top; ++i) code += x > 0.5f * static_cast<float>(levels[i - 1] + levels[i]);
        return code;
    }
};

template <class Format>
void replace_codes(const uint8_t* codes, size_t n_blocks, uint8_t* blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        typename Format::Block block;
        std::memcpy(&block, blocks + b * sizeof(block), sizeof(block));
        store_codes(codes + b * Format::kBlockSize, block);
        std::memcpy(blocks + b * sizeof(block), &block, sizeof(block));
    }
}

// The largest code, and the format's table of levels if its codes are no plain integers.
template <class Format>
Codes codes_of(const SymmetricEncoding&) {
    if constexpr (kHasLevels<Format>) return {Format::kType, 15, Format::kLevels, replace_codes<Format>};
    return {Format::kType, Format::Codes::kMax, nullptr, replace_codes<Format>};
}
template <class Format>
Codes codes_of(const AffineEncoding&) {
    return {Format::kType, Format::Codes::kMax, nullptr, replace_codes<Format>};
}
template <class Format>
Codes codes_of(const AffineSuperEncoding& encoding) {
    return {Format::kType, encoding.largest_code, nullptr, replace_codes<Format>};
}
template <class Format>
Codes codes_of(const ScaledSuperEncoding& encoding) {
    const int top = encoding.highest_level - encoding.lowest_level;
    if constexpr (kHasLevels<Format>) {
        if (top == 0) return {Format::kType, 15, Format::kLevels, replace_codes<Format>};
    }
    return {Format::kType, top, nullptr, replace_codes<Format>};
}

template <class Block>
void replace_nbits_codes(const uint8_t* codes, size_t n_blocks, uint8_t* blocks) {
    for (size_t b = 0; b < n_blocks; ++b)
        std::memcpy(blocks + b * sizeof(Block) + offsetof(Block, codes), codes + 32 * b, 32);
}

template <class Format>
constexpr bool kTakesFeedback =
    requires(const uint8_t* codes, typename Format::Block& block) { store_codes(codes, block); };

bool find_codes(GGMLType type, Codes& found) {
    bool takes = NBitsBlocks::visit(type, [&]<class Block>() {
        found = {Block::kType, 2 * Block::kHalf - 1, nullptr, replace_nbits_codes<Block>};
    });
    AllFormats::visit(type, [&]<class Format>() {
        if constexpr (kTakesFeedback<Format>) {
            found = codes_of<Format>(Format::kEncoding);
            takes = true;
        }
    });
    return takes;
}

}  // namespace

bool takes_feedback(GGMLType type) {
    Codes codes;
    return find_codes(type, codes);
}

Feedback::Feedback(const MatrixKernels& kernels, ThreadPool& pool, const float* moments, size_t n,
                   size_t block, double shrink, double damp)
    : kernels_(kernels), block_(block), order_(n), importance_(n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += moments[i * n + i];
    const double mean = sum / static_cast<double>(n);
    if (!(mean > 0) || !std::isfinite(mean)) return;
    for (size_t i = 0; i < n; ++i)
        importance_[i] = static_cast<float>((moments[i * n + i] / mean + damp) / (1 + damp));
    std::vector<double> of_block(n / block, 0.0);
    for (size_t i = 0; i < n; ++i) of_block[i / block] += importance_[i];
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) {
        const size_t block_a = a / block, block_b = b / block;
        if (block_a == block_b) return importance_[a] > importance_[b];
        return of_block[block_a] != of_block[block_b] ? of_block[block_a] > of_block[block_b]
                                                      : block_a < block_b;
    });
    // Rows and columns in reverse make the lower factor of H the upper one.
    std::vector<double> matrix(n * n);
    share(pool, n, 16, [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
            const float* row = moments + order_[n - 1 - i] * n;
            for (size_t j = 0; j < i; ++j) matrix[i * n + j] = (1 - shrink) * row[order_[n - 1 - j]];
            matrix[i * n + i] = row[order_[n - 1 - i]] + damp * mean;
        }
    });
    if (!factor(kernels, pool, matrix.data(), n)) return;
    panels_.resize(n * n);
    share(pool, n / kWidth, 1, [&](size_t panel, size_t) {
        for (size_t j = 0; j < kWidth; ++j) {
            const size_t column = n - 1 - (panel * kWidth + j);
            const double diagonal = matrix[column * n + column];
            for (size_t k = 0; k < n; ++k) {
                const size_t row = n - 1 - k;
                panels_[(panel * n + k) * kWidth + j] =
                    row > column ? static_cast<float>(matrix[row * n + column] / diagonal) : 0.0f;
            }
        }
    });
    valid_ = true;
}

// Some rows on their way. In `errors` and `targets` columns lie in the order in which they are encoded.
struct Feedback::Rows {
    Rows(size_t n, size_t block, const FormatInfo& format, const std::vector<float>& importance)
        : errors(kRows * n),
          targets(kRows * block),
          x(kRows * block),
          zero(kRows * block),
          top(kRows * block),
          weights(kRows * block),
          codes(kRows * block),
          blocks(kRows * format.block_bytes),
          all_importance(importance) {
        find_codes(format.type, format_codes);
    }
    const float* values = nullptr;
    size_t n_rows = 0;
    Codes format_codes{};
    std::vector<float> errors, targets, x, zero, top, weights;
    std::vector<uint8_t> codes, blocks;
    const std::vector<float>& all_importance;
};

// Encodes the columns order_[start ..] of a block into work.blocks.
EncodeStatus Feedback::encode_block(const Encoder& encoder, const FormatInfo& format, size_t start,
                                    Rows& work) const {
    const size_t n = columns(), first = order_[start] / block_ * block_;
    const Codes& codes = work.format_codes;
    const uint32_t* order = order_.data() + start;
    const auto pass_on = [&](size_t done, size_t from, size_t begin, size_t end) {
        for (size_t j = begin; j < end; j += kWidth) {
            kernels_.floats(work.n_rows, done - from, work.errors.data() + from, n, 1,
                            panels_.data() + ((start + j) / kWidth * n + from) * kWidth,
                            work.targets.data() + j, block_);
        }
    };
    for (size_t r = 0; r < work.n_rows; ++r) {
        for (size_t j = 0; j < block_; ++j) work.targets[r * block_ + j] = work.values[r * n + order[j]];
    }
    pass_on(start, 0, 0, block_);
    for (size_t r = 0; r < work.n_rows; ++r) {
        for (size_t j = 0; j < block_; ++j) {
            work.x[r * block_ + order[j] - first] = work.targets[r * block_ + j];
            work.weights[r * block_ + j] = work.all_importance[first + j];
        }
    }
    const EncodeStatus status =
        encoder.encode(work.x.data(), work.weights.data(), work.n_rows, work.blocks.data());
    if (status != EncodeStatus::kDone) return status;
    // Values are linear in levels: those of the first and the last code tell offset and step.
    const auto decode = [&](int code, std::vector<float>& out) {
        std::fill(work.codes.begin(), work.codes.end(), static_cast<uint8_t>(code));
        codes.store(work.codes.data(), work.n_rows, work.blocks.data());
        format.decode(work.blocks.data(), work.n_rows, out.data());
    };
    decode(0, work.zero);
    decode(codes.top, work.top);
    const float lowest = codes.level(0), range = codes.level(codes.top) - lowest;
    for (size_t begin = 0; begin < block_; begin += kColumns) {
        for (size_t r = 0; r < work.n_rows; ++r) {
            float* target = work.targets.data() + r * block_ + begin;
            for (size_t k = 0; k < kColumns; ++k) {
                const size_t column = order[begin + k] - first, at = r * block_ + column;
                const float step = (work.top[at] - work.zero[at]) / range;
                const float offset = work.zero[at] - lowest * step;
                const int code = step == 0 ? 0 : codes.nearest((target[k] - offset) / step);
                const float error = work.values[r * n + first + column] - (offset + step * codes.level(code));
                work.codes[at] = static_cast<uint8_t>(code);
                work.errors[r * n + start + begin + k] = error;
                for (size_t j = (k + 1) / kWidth * kWidth; j < kColumns; j += kWidth) {
                    const float* factors =
                        panels_.data() + ((start + begin + j) / kWidth * n + start + begin + k) * kWidth;
                    for (size_t i = 0; i < kWidth; ++i) target[j + i] += error * factors[i];
                }
            }
        }
        pass_on(start + begin + kColumns, start + begin, begin + kColumns, block_);
    }
    codes.store(work.codes.data(), work.n_rows, work.blocks.data());
    return EncodeStatus::kDone;
}

EncodeStatus Feedback::encode(ThreadPool& pool, const Encoder& encoder, const FormatInfo& format,
                              const float* x, size_t rows, uint8_t* out) const {
    const size_t n = columns(), bytes = row_bytes(format, n);
    std::atomic<EncodeStatus> status{EncodeStatus::kDone};
    share(pool, rows, kRows, [&](size_t begin, size_t end) {
        Rows work(n, block_, format, importance_);
        work.values = x + begin * n;
        work.n_rows = end - begin;
        for (size_t start = 0; start < n; start += block_) {
            if (status.load(std::memory_order_relaxed) != EncodeStatus::kDone) return;
            const EncodeStatus done = encode_block(encoder, format, start, work);
            if (done != EncodeStatus::kDone) return status.store(done, std::memory_order_relaxed);
            uint8_t* to = out + begin * bytes + order_[start] / block_ * format.block_bytes;
            for (size_t r = 0; r < work.n_rows; ++r) {
                std::copy_n(work.blocks.data() + r * format.block_bytes, format.block_bytes, to + r * bytes);
            }
        }
    });
    return status.load(std::memory_order_relaxed);
}

}  // namespace edgellm
