// SPDX-License-Identifier: MIT
#include "quantize/quantize.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <span>
#include <vector>

#include "base/by_isa.h"
#include "base/share.h"

namespace edgellm {

using Encoders = std::span<const Encoder>;
EDGELLM_QUANTIZE_SETS(EDGELLM_DECLARE, Encoders, kEncoders)

namespace {

// Values that a thread takes at a time: small enough to share evenly, and what it reads and writes stays in
// its cache.
constexpr size_t kChunkValues = 1 << 15;

Encoders encoders(Isa isa) {
    static constexpr ByIsa<Encoders> table = {EDGELLM_QUANTIZE_SETS(EDGELLM_ENTRY, kEncoders)};
    return table[isa];
}

// As share, on up to n_threads threads.
template <class Work>
void share_alone(size_t n, size_t step, size_t n_threads, const Work& work) {
    ThreadPool pool(std::clamp<size_t>((n + step - 1) / step, 1, n_threads), /*spin=*/false);
    share(pool, n, step, work);
}

// Whole blocks of a tensor: all in one row where no importance tells columns apart.
struct Pieces {
    size_t rows, cols, rows_per_chunk;

    Pieces(const FormatInfo& format, const float* importance, size_t n_rows, size_t n_cols) {
        rows = importance == nullptr ? n_rows * n_cols / format.block_size : n_rows;
        cols = importance == nullptr ? format.block_size : n_cols;
        rows_per_chunk = std::max<size_t>(1, kChunkValues / cols);
    }
};

// Several sums side by side, so that no addition waits for the one before.
void add_errors(const float* decoded, const float* x, const float* importance, size_t n, ErrorSums& sums) {
    constexpr size_t kSums = 8;
    double error[kSums] = {}, power[kSums] = {};
    const auto add = [&](size_t i, size_t k) {
        const double value = x[i], off = decoded[i] - value;
        const double weight = importance == nullptr ? 1.0 : importance[i];
        error[k] += weight * off * off;
        power[k] += weight * value * value;
    };
    size_t i = 0;
    for (; i + kSums <= n; i += kSums) {
        for (size_t k = 0; k < kSums; ++k) add(i + k, k);
    }
    for (; i < n; ++i) add(i, i % kSums);
    for (size_t k = 0; k < kSums; ++k) {
        sums.error += error[k];
        sums.power += power[k];
    }
}

template <class Block>
void decode_nbits(const uint8_t* blocks, size_t n_blocks, float* out) {
    for (size_t b = 0; b < n_blocks; ++b, out += 32) {
        Block block;
        std::memcpy(&block, blocks + b * sizeof(block), sizeof(block));
        const float scale = block.scale();
        for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(block.codes[i] - Block::kHalf);
    }
}

}  // namespace

const FormatInfo* find_encodable(uint32_t type) {
    const FormatInfo* found = nullptr;
    NBitsBlocks::visit(static_cast<GGMLType>(type), [&]<class Block>() {
        static constexpr FormatInfo info{Block::kType, "NBITS", 32, sizeof(Block), decode_nbits<Block>};
        found = &info;
    });
    return found != nullptr ? found : find_format(type);
}

const Encoder* find_encoder(uint32_t type, Isa isa) {
    for (const Encoder& encoder : encoders(isa)) {
        if (static_cast<uint32_t>(encoder.type) == type) return &encoder;
    }
    return nullptr;
}

EncodeStatus encode_rows(const Encoder& encoder, const FormatInfo& format, const float* x,
                         const float* importance, size_t rows, size_t cols, size_t n_threads, uint8_t* out) {
    const Pieces pieces(format, importance, rows, cols);
    const size_t blocks_per_row = pieces.cols / format.block_size,
                 bytes_per_row = row_bytes(format, pieces.cols);
    std::atomic<EncodeStatus> status{EncodeStatus::kDone};
    const auto encode = [&](size_t row, size_t n_rows) {
        const EncodeStatus done = encoder.encode(x + row * pieces.cols, importance, n_rows * blocks_per_row,
                                                 out + row * bytes_per_row);
        if (done != EncodeStatus::kDone) status.store(done, std::memory_order_relaxed);
    };
    share_alone(pieces.rows, pieces.rows_per_chunk, n_threads, [&](size_t begin, size_t end) {
        if (status.load(std::memory_order_relaxed) != EncodeStatus::kDone) return;
        if (importance == nullptr) return encode(begin, end - begin);
        for (size_t row = begin; row < end; ++row) encode(row, 1);
    });
    return status.load(std::memory_order_relaxed);
}

void decode_values(const FormatInfo& format, const uint8_t* blocks, size_t n_values, size_t n_threads,
                   float* out) {
    const size_t step = std::max<size_t>(1, kChunkValues / format.block_size);
    share_alone(n_values / format.block_size, step, n_threads, [&](size_t begin, size_t end) {
        format.decode(blocks + begin * format.block_bytes, end - begin, out + begin * format.block_size);
    });
}

ErrorSums encoding_error(const FormatInfo& format, const uint8_t* blocks, const float* x,
                         const float* importance, size_t rows, size_t cols, size_t n_threads) {
    const Pieces pieces(format, importance, rows, cols);
    const size_t bytes_per_row = row_bytes(format, pieces.cols);
    std::vector<ErrorSums> by_row_chunk((pieces.rows + pieces.rows_per_chunk - 1) / pieces.rows_per_chunk);
    share_alone(pieces.rows, pieces.rows_per_chunk, n_threads, [&](size_t begin, size_t end) {
        std::vector<float> decoded(pieces.cols * (end - begin));
        format.decode(blocks + begin * bytes_per_row, decoded.size() / format.block_size, decoded.data());
        ErrorSums sums;
        for (size_t row = 0; row < end - begin; ++row) {
            add_errors(decoded.data() + row * pieces.cols, x + (begin + row) * pieces.cols, importance,
                       pieces.cols, sums);
        }
        by_row_chunk[begin / pieces.rows_per_chunk] = sums;
    });
    // In a fixed order, so that the figure does not depend on the threads.
    ErrorSums total;
    for (const ErrorSums& sums : by_row_chunk) {
        total.error += sums.error;
        total.power += sums.power;
    }
    return total;
}

}  // namespace edgellm
