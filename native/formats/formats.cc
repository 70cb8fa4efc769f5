// SPDX-License-Identifier: MIT
#include "formats/formats.h"

#include <array>
#include <cstring>

#include "formats/list.h"

namespace edgellm {
namespace {

template <class F>
void decode_blocks(const uint8_t* bytes, size_t n_blocks, float* out) {
    for (size_t n = 0; n < n_blocks; ++n, out += F::kBlockSize) {
        typename F::Block block;
        std::memcpy(&block, bytes + n * sizeof(block), sizeof(block));
        if constexpr (requires { F::value(block, 0); }) {
            for (int i = 0; i < static_cast<int>(F::kBlockSize); ++i) out[i] = F::value(block, i);
        } else {
            F::decode(block, out);
        }
    }
}

template <class... F>
constexpr auto make_table(TypedList<F...>) {
    return std::array{
        FormatInfo{F::kType, F::kName, F::kBlockSize, sizeof(typename F::Block), decode_blocks<F>}...};
}

constexpr auto kFormats = make_table(AllFormats{});

}  // namespace

const FormatInfo* find_format(uint32_t type) {
    for (const FormatInfo& format : kFormats) {
        if (static_cast<uint32_t>(format.type) == type) return &format;
    }
    return nullptr;
}

size_t row_bytes(const FormatInfo& format, size_t n_in) {
    return n_in % format.block_size == 0 ? n_in / format.block_size * format.block_bytes : 0;
}

}  // namespace edgellm
