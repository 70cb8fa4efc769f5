// SPDX-License-Identifier: MIT
#include "formats/formats.h"

#include "formats/block32.h"
#include "formats/expanded.h"
#include "formats/floats.h"
#include "formats/iq4_xs.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/levels.h"
#include "formats/ternary.h"

namespace edgellm {
namespace {

constexpr ExpandedFormat kExpandedFormats[] = {
    {GGMLType::Q2_K, "Q2_K", sizeof(BlockQ2_K), expand_q2_k},
    {GGMLType::Q3_K, "Q3_K", sizeof(BlockQ3_K), expand_q3_k},
    {GGMLType::IQ1_S, "IQ1_S", sizeof(BlockIQ1_S), expand_iq1_s},
    {GGMLType::IQ1_M, "IQ1_M", sizeof(BlockIQ1_M), expand_iq1_m},
    {GGMLType::IQ2_XXS, "IQ2_XXS", sizeof(BlockIQ2_XXS), expand_iq2_xxs},
    {GGMLType::IQ2_XS, "IQ2_XS", sizeof(BlockIQ2_XS), expand_iq2_xs},
    {GGMLType::IQ2_S, "IQ2_S", sizeof(BlockIQ2_S), expand_iq2_s},
    {GGMLType::IQ3_XXS, "IQ3_XXS", sizeof(BlockIQ3_XXS), expand_iq3_xxs},
    {GGMLType::IQ3_S, "IQ3_S", sizeof(BlockIQ3_S), expand_iq3_s},
    {GGMLType::TQ1_0, "TQ1_0", sizeof(BlockTQ1_0), expand_tq1_0},
    {GGMLType::TQ2_0, "TQ2_0", sizeof(BlockTQ2_0), expand_tq2_0},
};

constexpr const ExpandedFormat* find_expanded(GGMLType type) {
    for (const ExpandedFormat& format : kExpandedFormats) {
        if (format.type == type) return &format;
    }
    return nullptr;
}

template <GGMLType type>
void decode_through_expanded(const uint8_t* blocks, size_t n_blocks, float* out) {
    constexpr const ExpandedFormat* format = find_expanded(type);
    for (size_t b = 0; b < n_blocks; ++b) {
        ExpandedBlock block;
        format->expand(blocks + b * format->block_bytes, &block);
        decode_expanded(block, levels_of(type), out + 256 * b);
    }
}

template <GGMLType type>
constexpr FormatInfo expanded_info() {
    constexpr const ExpandedFormat* format = find_expanded(type);
    return {type, format->name, 256, format->block_bytes, decode_through_expanded<type>};
}

constexpr FormatInfo kFormats[] = {
    {GGMLType::F32, "F32", 1, 4, decode_f32},
    {GGMLType::F16, "F16", 1, 2, decode_f16},
    {GGMLType::BF16, "BF16", 1, 2, decode_bf16},
    {GGMLType::Q4_0, "Q4_0", 32, sizeof(BlockQ4_0), decode_q4_0},
    {GGMLType::Q4_1, "Q4_1", 32, sizeof(BlockQ4_1), decode_q4_1},
    {GGMLType::Q5_0, "Q5_0", 32, sizeof(BlockQ5_0), decode_q5_0},
    {GGMLType::Q5_1, "Q5_1", 32, sizeof(BlockQ5_1), decode_q5_1},
    {GGMLType::Q8_0, "Q8_0", 32, sizeof(BlockQ8_0), decode_q8_0},
    {GGMLType::Q4_K, "Q4_K", 256, sizeof(BlockQ4_K), decode_q4_k},
    {GGMLType::Q5_K, "Q5_K", 256, sizeof(BlockQ5_K), decode_q5_k},
    {GGMLType::Q6_K, "Q6_K", 256, sizeof(BlockQ6_K), decode_q6_k},
    {GGMLType::IQ4_NL, "IQ4_NL", 32, sizeof(BlockIQ4_NL), decode_iq4_nl},
    {GGMLType::IQ4_XS, "IQ4_XS", 256, sizeof(BlockIQ4_XS), decode_iq4_xs},
    {GGMLType::MXFP4, "MXFP4", 32, sizeof(BlockMXFP4), decode_mxfp4},
    expanded_info<GGMLType::Q2_K>(),
    expanded_info<GGMLType::Q3_K>(),
    expanded_info<GGMLType::IQ1_S>(),
    expanded_info<GGMLType::IQ1_M>(),
    expanded_info<GGMLType::IQ2_XXS>(),
    expanded_info<GGMLType::IQ2_XS>(),
    expanded_info<GGMLType::IQ2_S>(),
    expanded_info<GGMLType::IQ3_XXS>(),
    expanded_info<GGMLType::IQ3_S>(),
    expanded_info<GGMLType::TQ1_0>(),
    expanded_info<GGMLType::TQ2_0>(),
};

}  // namespace

const ExpandedFormat* find_expanded_format(GGMLType type) {
    return find_expanded(type);
}

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
