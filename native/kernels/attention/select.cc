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

namespace {
#define EDGELLM_KV_TYPE(type, name) KvType::k##type,
constexpr KvType kTypes[] = {EDGELLM_KV_TYPES(EDGELLM_KV_TYPE)};
#undef EDGELLM_KV_TYPE
#define EDGELLM_KV_NAME(type, name) name,
constexpr const char* kNames[] = {EDGELLM_KV_TYPES(EDGELLM_KV_NAME)};
#undef EDGELLM_KV_NAME
}  // namespace

std::span<const KvType> kv_types() {
    return kTypes;
}

const char* kv_type_name(KvType type) {
    return kNames[static_cast<size_t>(type)];
}

bool kv_type_from_name(std::string_view name, KvType* type) {
    for (KvType t : kTypes) {
        if (name == kv_type_name(t)) {
            *type = t;
            return true;
        }
    }
    return false;
}

size_t kv_block_bytes(const AttentionShape& s) {
    return with_kv_type(s.kv_type,
                        [&]<KvType type>() { return round_up(value_offset<type>(s, s.n_kv_heads), 64); });
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
