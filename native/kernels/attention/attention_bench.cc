// SPDX-License-Identifier: MIT
// One call of `attend`: 3 query heads over 512 keys of one KV head, marked so that a tracer finds it
// (bench/arm_work.py). Argument: SET:CACHE:QUERIES:WIDTH, such as dotprod:f16:16:64. Prints the
// multiply-adds; exits 2 if the processor or the build has no such set or cache.
#include <cstdio>
#include <random>
#include <vector>

#include "base/count_region.h"
#include "base/memory.h"
#include "kernels/attention/attention.h"

namespace edgellm {
namespace {

void run(Isa isa, KvType type, uint32_t n_queries, uint32_t width) {
    constexpr uint32_t kHeads = 3, kKeys = 512;
    AttentionShape s{};
    s.n_heads = kHeads;
    s.n_kv_heads = 1;
    s.key_dim = s.value_dim = width;
    s.scale = 0.125f;
    s.kv_type = type;
    const AttentionKernels& kernels = attention_kernels(isa);
    std::mt19937 random(1);
    const auto fill = [&random](std::vector<float>& values) {
        for (float& v : values) v = static_cast<float>(random() % 2001) * 0.001f - 1.0f;
    };
    constexpr uint32_t kBlocks = kKeys / kKvBlockTokens;
    Region cache(kv_block_bytes(s) * kBlocks, false);
    std::vector<uint8_t*> blocks;
    for (uint32_t b = 0; b < kBlocks; ++b) blocks.push_back(cache.data() + b * kv_block_bytes(s));
    std::vector<float> key(width), value(width);
    for (uint32_t i = 0; i < kKeys; ++i) {
        fill(key);
        fill(value);
        kernels.write(s, blocks[i / kKvBlockTokens], i % kKvBlockTokens, key.data(), value.data());
    }
    std::vector<float> q(size_t{n_queries} * kHeads * width), out(q.size()),
        scratch(attend_scratch_floats(s) + 16);
    fill(q);
    const size_t stride = size_t{kHeads} * width;
    const AttentionTask task{blocks.data(), 0,          n_queries, kKeys - n_queries, kKeys, q.data(),
                             stride,        out.data(), stride};
    kernels.attend(s, task, scratch.data());
    edgellm_region_begin();
    kernels.attend(s, task, scratch.data());
    edgellm_region_end();
    std::printf("macs %zu\n", q.size() * kKeys * 2);
}

}  // namespace
}  // namespace edgellm

int main(int n_arguments, char** arguments) {
    using namespace edgellm;
    char set[16], cache[16];
    unsigned n_queries = 0, width = 0;
    if (n_arguments != 2 ||
        std::sscanf(arguments[1], "%15[^:]:%15[^:]:%u:%u", set, cache, &n_queries, &width) != 4 ||
        n_queries < 1 || width < 1) {
        std::fprintf(stderr, "usage: attention_bench SET:CACHE:QUERIES:WIDTH\n");
        return 1;
    }
    Isa isa{};
    KvType type{};
    if (!isa_from_name(set, &isa) || !isa_usable(isa, detect_cpu()) || !kv_type_from_name(cache, &type))
        return 2;
    run(isa, type, n_queries, width);
    return 0;
}
