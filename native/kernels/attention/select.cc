// SPDX-License-Identifier: MIT
#include "kernels/attention/layout.h"

namespace edgellm {

extern const AttentionKernels kAttentionScalar, kAttentionAvx2, kAttentionAvx512Vnni;

const AttentionKernels& attention_kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::kAvx2:
        case Isa::kAvxVnni:
            return kAttentionAvx2;
        case Isa::kAvx512Vnni:
            return kAttentionAvx512Vnni;
#endif
        default:
            return kAttentionScalar;
    }
}

KvType faster_kv_type(Isa isa) {
    return &attention_kernels(isa) == &kAttentionScalar ? KvType::kF16 : KvType::kI16;
}

size_t kv_block_bytes(const AttentionShape& s) {
    return round_up(value_offset(s, s.n_kv_heads), 64);
}

size_t attend_scratch_floats(const AttentionShape& s) {
    return scratch_layout(s).total;
}

void visible_chunks(const AttentionShape& s, uint32_t position, uint32_t n_keys, uint32_t* first,
                    uint32_t* last) {
    const KeyRange keys = visible_keys(s, position, n_keys);
    *first = keys.first / kKvChunkTokens;
    *last = static_cast<uint32_t>(round_up(keys.last, kKvChunkTokens) / kKvChunkTokens);
}

}  // namespace edgellm
