// SPDX-License-Identifier: MIT
#include "base/by_isa.h"
#include "kernels/attention/layout.h"

namespace edgellm {

EDGELLM_ATTENTION_SETS(EDGELLM_DECLARE, AttentionKernels, kAttention)

const AttentionKernels& attention_kernels(Isa isa) {
    static constexpr ByIsa<AttentionKernels> table = {EDGELLM_ATTENTION_SETS(EDGELLM_ENTRY, kAttention)};
    return table[isa];
}

KvType faster_kv_type(Isa isa) {
    return attention_kernels(isa).multiplies_pairs ? KvType::kI16 : KvType::kF16;
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
