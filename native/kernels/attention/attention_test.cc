// SPDX-License-Identifier: MIT
// Attention over every type of cache on every instruction set of this CPU, against sums in double; the same
// bits for a query alone, among others, and in chunks that are merged. The cache starts as NaN, so that a
// read of a key or value that was not written shows. Prints what failed and exits 1.
#include "kernels/attention/attention.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "base/memory.h"

namespace edgellm {
namespace {

constexpr uint32_t kTokens = 690, kQueries = 19, kFirst = kTokens - kQueries;

int failures = 0;

// Largest error as a share of the largest value, by what a cache's numbers are rounded to.
double bound(KvType type) {
    switch (type) {
        case KvType::kF32:
            return 2e-6;
        case KvType::kF16:
        case KvType::kI16:
            return 2e-3;
        case KvType::kQ8_0:
            return 3e-2;
    }
    return 0;
}

struct Layer {
    AttentionShape s;
    const AttentionKernels& kernels;
    std::vector<float> k, v, q;
    Region cache;
    std::vector<uint8_t*> blocks;
    std::vector<float> scratch;

    Layer(const AttentionShape& shape, const AttentionKernels& kernels_, std::mt19937& random)
        : s(shape),
          kernels(kernels_),
          k(size_t{kTokens} * s.n_kv_heads * s.key_dim),
          v(size_t{kTokens} * s.n_kv_heads * s.value_dim),
          q(size_t{kQueries} * s.n_heads * s.key_dim),
          cache((kTokens + kKvBlockTokens - 1) / kKvBlockTokens * kv_block_bytes(s), false),
          scratch(attend_scratch_floats(s) + 16) {
        std::normal_distribution<float> normal;
        for (std::vector<float>* values : {&k, &v, &q}) {
            for (float& x : *values) x = normal(random);
        }
        const size_t n_blocks = (kTokens + kKvBlockTokens - 1) / kKvBlockTokens;
        std::memset(cache.data(), 0xff, n_blocks * kv_block_bytes(s));
        for (size_t b = 0; b < n_blocks; ++b) blocks.push_back(cache.data() + b * kv_block_bytes(s));
        for (uint32_t i = 0; i < kTokens; ++i) {
            kernels.write(s, blocks[i / kKvBlockTokens], i % kKvBlockTokens,
                          k.data() + size_t{i} * s.n_kv_heads * s.key_dim,
                          v.data() + size_t{i} * s.n_kv_heads * s.value_dim);
        }
    }

    size_t width() const { return size_t{s.n_heads} * s.value_dim; }
    AttentionTask task(uint32_t kv_head, uint32_t first, uint32_t n, std::vector<float>& out) const {
        const size_t stride = size_t{s.n_heads} * s.key_dim;
        return {blocks.data(),
                kv_head,
                n,
                kFirst + first,
                0,
                q.data() + first * stride,
                stride,
                out.data() + first * width(),
                width()};
    }

    std::vector<float> together() {
        std::vector<float> out(kQueries * width());
        for (uint32_t h = 0; h < s.n_kv_heads; ++h)
            kernels.attend(s, task(h, 0, kQueries, out), scratch.data());
        return out;
    }
    std::vector<float> alone() {
        std::vector<float> out(kQueries * width());
        for (uint32_t i = 0; i < kQueries; ++i) {
            for (uint32_t h = 0; h < s.n_kv_heads; ++h) kernels.attend(s, task(h, i, 1, out), scratch.data());
        }
        return out;
    }
    std::vector<float> in_chunks() {
        std::vector<float> out(kQueries * width());
        const size_t stride = partial_floats(s) * (s.n_heads / s.n_kv_heads);
        std::vector<float> partials(2 * stride);
        for (uint32_t i = 0; i < kQueries; ++i) {
            uint32_t first = 0, last = 0;
            visible_chunks(s, kFirst + i, 0, &first, &last);
            for (uint32_t h = 0; h < s.n_kv_heads; ++h) {
                const AttentionTask t = task(h, i, 1, out);
                for (uint32_t c = first; c < last; ++c)
                    kernels.attend_chunk(s, t, c, partials.data() + (c - first) * stride, scratch.data());
                kernels.merge(s, t, first, last, partials.data(), stride);
            }
        }
        return out;
    }
    std::vector<double> expected() const {
        std::vector<double> out(kQueries * width());
        for (size_t i = 0; i < kQueries; ++i) {
            for (size_t h = 0; h < s.n_heads; ++h) {
                const size_t kv = h / (s.n_heads / s.n_kv_heads), end = kFirst + i + 1;
                const size_t begin = s.window > 0 && end > s.window ? end - s.window : 0;
                double sum = s.sinks != nullptr ? std::exp(static_cast<double>(s.sinks[h])) : 0;
                double* to = out.data() + i * width() + h * s.value_dim;
                for (size_t t = begin; t < end; ++t) {
                    double logit = 0;
                    for (size_t d = 0; d < s.key_dim; ++d)
                        logit += static_cast<double>(q[(i * s.n_heads + h) * s.key_dim + d]) *
                                 static_cast<double>(k[(t * s.n_kv_heads + kv) * s.key_dim + d]);
                    logit *= static_cast<double>(s.scale);
                    if (s.softcap > 0) logit = std::tanh(logit / s.softcap) * s.softcap;
                    const double weight = std::exp(logit);
                    sum += weight;
                    for (size_t d = 0; d < s.value_dim; ++d)
                        to[d] += weight * static_cast<double>(v[(t * s.n_kv_heads + kv) * s.value_dim + d]);
                }
                for (size_t d = 0; d < s.value_dim; ++d) to[d] /= sum;
            }
        }
        return out;
    }
};

void test_shape(const AttentionShape& shape, Isa isa, std::mt19937& random) {
    Layer layer(shape, attention_kernels(isa), random);
    const auto fail = [&](const char* what) {
        ++failures;
        std::printf("%s: %s %s n_heads=%u n_kv_heads=%u key_dim=%u value_dim=%u\n", what,
                    kv_type_name(shape.kv_type), isa_name(isa), shape.n_heads, shape.n_kv_heads,
                    shape.key_dim, shape.value_dim);
    };
    const std::vector<float> together = layer.together();
    const std::vector<double> expected = layer.expected();
    double error = 0, largest = 0;
    for (size_t i = 0; i < together.size(); ++i) {
        const double difference = std::fabs(static_cast<double>(together[i]) - expected[i]);
        error = difference <= error ? error : difference;  // NaN stays
        largest = std::fmax(largest, std::fabs(expected[i]));
    }
    if (!(error <= bound(shape.kv_type) * largest)) fail("wrong");
    const size_t bytes = together.size() * sizeof(float);
    if (std::memcmp(together.data(), layer.alone().data(), bytes) != 0) fail("alone other bits");
    if (std::memcmp(together.data(), layer.in_chunks().data(), bytes) != 0) fail("in chunks other bits");
}

int run() {
    static const float sinks[] = {0.5f, -1.0f};
    // n_heads, n_kv_heads, key_dim, value_dim, scale, softcap, window, sinks, type
    const AttentionShape shapes[] = {{3, 1, 64, 64, 0.125f, 0, 0, nullptr, KvType::kF16},
                                     {10, 2, 40, 24, 0.15f, 0, 100, nullptr, KvType::kF16},
                                     {2, 2, 19, 35, 0.2f, 30.0f, 0, sinks, KvType::kF16}};
    const AttentionKernels* tested = nullptr;
    for (Isa isa : built_isas()) {
        if (!isa_usable(isa, detect_cpu()) || &attention_kernels(isa) == tested) continue;
        tested = &attention_kernels(isa);
        std::mt19937 random(1);
        for (AttentionShape shape : shapes) {
            for (KvType type : kv_types()) {
                shape.kv_type = type;
                test_shape(shape, isa, random);
            }
        }
        std::printf("attention of %s: %d failures so far\n", isa_name(isa), failures);
    }
    return failures != 0;
}

}  // namespace
}  // namespace edgellm

int main() {
    return edgellm::run();
}
