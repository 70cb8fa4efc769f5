// SPDX-License-Identifier: MIT
#include "kernels/sampling/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace edgellm {
namespace {

using Candidate = SamplingWorkspace::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Order of candidates: higher logits first, then lower ids. It is total, so that results do not depend on the
// sorting algorithm.
bool before(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// A weight's bucket: its 8 bits of exponent and 7 of mantissa.
constexpr int kMassShift = 16;
constexpr size_t kMassBuckets = (std::bit_cast<uint32_t>(1.0f) >> kMassShift) + 1;

size_t n_blocks(size_t n) {
    return (n + kLogitBlock - 1) / kLogitBlock;
}

// Copies the logits and applies bias, penalties and mask. Returns the input itself if none applies.
const float* adjust(const SamplingParams& params, std::span<const float> logits,
                    std::span<const uint32_t> history, const std::span<const uint32_t>* mask,
                    SamplingWorkspace& work) {
    const bool penalties =
        params.repeat_penalty != 1.0f || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
    if (params.bias.empty() && mask == nullptr && (!penalties || history.empty())) return logits.data();
    float* x = work.logits.get();
    std::memcpy(x, logits.data(), logits.size() * sizeof(float));
    for (const LogitBias& b : params.bias) x[b.id] += b.value;
    if (penalties) {
        uint32_t* counts = work.counts.get();
        for (uint32_t id : history) ++counts[id];
        for (uint32_t id : history) {
            if (counts[id] == 0) continue;
            float& v = x[id];
            v = v > 0.0f ? v / params.repeat_penalty : v * params.repeat_penalty;
            v -= static_cast<float>(counts[id]) * params.frequency_penalty + params.presence_penalty;
            counts[id] = 0;
        }
    }
    if (mask != nullptr) {
        for (size_t start = 0; start < logits.size(); start += 32) {
            const uint32_t word = start / 32 < mask->size() ? (*mask)[start / 32] : 0;
            if (word == UINT32_MAX) continue;
            const size_t count = std::min<size_t>(32, logits.size() - start);
            if (word == 0) {
                std::fill(x + start, x + start + count, -kInfinity);
                continue;
            }
            for (size_t i = 0; i < count; ++i) x[start + i] = (word >> i) & 1u ? x[start + i] : -kInfinity;
        }
    }
    return x;
}

// Candidates of at least `least`, by rising id. maxima: the largest logit of each block of x.
size_t collect(const float* x, size_t n, const float* maxima, float least, Candidate* out) {
    size_t count = 0;
    for (size_t b = 0; b < n_blocks(n); ++b) {
        if (maxima[b] < least || maxima[b] == -kInfinity) continue;
        const size_t end = std::min(n, (b + 1) * kLogitBlock);
        for (size_t i = b * kLogitBlock; i < end; ++i) {
            if (x[i] >= least && x[i] > -kInfinity) out[count++] = {x[i], static_cast<uint32_t>(i)};
        }
    }
    return count;
}

// The first k candidates in order, fewer if fewer are above -infinity. spare: room for n_blocks floats.
size_t largest(const float* x, size_t n, const float* maxima, size_t k, float* spare, Candidate* out) {
    float least = -kInfinity;
    const size_t blocks = n_blocks(n);
    if (k <= blocks) {
        // The maxima of k blocks are at least the k-th largest maximum, and so are k logits.
        std::copy(maxima, maxima + blocks, spare);
        std::nth_element(spare, spare + k - 1, spare + blocks, std::greater<float>());
        least = spare[k - 1];
    }
    const size_t count = collect(x, n, maxima, least, out);
    k = std::min(k, count);
    if (k < count) std::nth_element(out, out + k, out + count, before);
    std::sort(out, out + k, before);
    return k;
}

// Smallest logit of the nucleus: candidates are taken from the likeliest down until their weights sum to
// `target`. -infinity if all of them weigh less. work holds the weights by id, at most 1, and the maxima of
// x's blocks; logits below `least` are left out. A histogram over the weights' leading bits finds the bucket
// in which the sum reaches the target, and only that bucket is sorted.
float nucleus_end(const float* x, size_t n, float least, double target, SamplingWorkspace& work) {
    const float *const maxima = work.maxima.get(), *const weights = work.weights.get();
    double* const mass = work.mass.get();
    Candidate* const room = work.candidates.get();
    const auto bucket_of = [&](size_t i) { return std::bit_cast<uint32_t>(weights[i]) >> kMassShift; };
    const auto visit = [&](auto f) {
        for (size_t b = 0; b < n_blocks(n); ++b) {
            if (maxima[b] < least) continue;
            const size_t end = std::min(n, (b + 1) * kLogitBlock);
            for (size_t i = b * kLogitBlock; i < end; ++i) f(i);
        }
    };
    std::fill(mass, mass + kMassBuckets, 0.0);
    visit([&](size_t i) { mass[bucket_of(i)] += weights[i]; });
    size_t bucket = kMassBuckets;
    double sum = 0.0;
    while (bucket > 0 && sum + mass[bucket - 1] < target) sum += mass[--bucket];
    if (bucket == 0) return -kInfinity;
    --bucket;
    size_t count = 0;
    visit([&](size_t i) {
        if (bucket_of(i) == bucket && x[i] > -kInfinity) room[count++] = {x[i], static_cast<uint32_t>(i)};
    });
    std::sort(room, room + count, before);
    size_t last = 0;
    while (last + 1 < count && (sum += weights[room[last].id]) < target) ++last;
    return count > 0 ? room[last].logit : -kInfinity;
}

// Index of the weight at which the running sum first exceeds `at`.
size_t draw(const float* weights, size_t n, double at) {
    size_t last = 0;
    for (size_t i = 0; i < n; ++i) {
        if (weights[i] <= 0.0f) continue;
        last = i;
        if (at < weights[i]) return i;
        at -= weights[i];
    }
    return last;  // the sum was rounded up
}

}  // namespace

SamplingWorkspace::SamplingWorkspace(size_t n)
    : n_vocab(n),
      logits(new float[n]),
      weights(new float[n]),
      runs(new double[(n + kLogitRun - 1) / kLogitRun]),
      maxima(new float[n_blocks(n)]),
      mass(new double[kMassBuckets]),
      counts(new uint32_t[n]()),
      candidates(new Candidate[n]) {}

SamplingStatus sample_token(const SamplingKernels& kernels, const SamplingParams& params,
                            std::span<const float> logits, std::span<const uint32_t> history,
                            const std::span<const uint32_t>* mask, double random, SamplingWorkspace& work,
                            uint32_t* id) {
    const size_t n = logits.size();
    const float* x = adjust(params, logits, history, mask, work);
    float* maxima = work.maxima.get();
    if (!kernels.block_max(x, n, maxima)) return SamplingStatus::kNotFinite;
    const float* first_max = std::max_element(maxima, maxima + n_blocks(n));
    const float top = *first_max;
    if (top == kInfinity) return SamplingStatus::kNotFinite;
    if (top == -kInfinity) return SamplingStatus::kNothingAllowed;
    const size_t start = static_cast<size_t>(first_max - maxima) * kLogitBlock;
    const auto first_top = static_cast<uint32_t>(std::find(x + start, x + n, top) - x);
    if (params.temperature == 0.0f || params.top_k == 1) {
        *id = first_top;
        return SamplingStatus::kOk;
    }

    const bool by_p = params.top_p < 1.0f;
    float least = params.min_p > 0.0f ? top + std::log(params.min_p) : -kInfinity;
    const float factor = 1.0f / params.temperature;
    Candidate* c = work.candidates.get();
    float* weights = work.weights.get();
    if (params.top_k > 0 && params.top_k < n) {
        const size_t k = largest(x, n, maxima, params.top_k, weights, c);
        if (by_p) {
            double total = 0.0, sum = 0.0;
            for (size_t i = 0; i < k; ++i) total += weights[i] = std::exp(c[i].logit - top);
            size_t last = 0;
            while (last + 1 < k && (sum += weights[last]) < params.top_p * total) ++last;
            least = std::max(least, c[last].logit);
        }
        double total = 0.0;
        size_t count = 0;
        for (; count < k && c[count].logit >= least; ++count)
            total += weights[count] = std::exp((c[count].logit - top) * factor);
        *id = c[draw(weights, count, random * total)].id;
        return SamplingStatus::kOk;
    }
    if (by_p) {
        const double total = kernels.exp_sum(x, n, top, 1.0f, -kInfinity, weights, work.runs.get());
        // Candidates that each weigh less than (1 - p) / n of the total weigh less than 1 - p of it together,
        // so the nucleus ends above them.
        const double share = std::max(1.0 - params.top_p, 1e-9) * total / static_cast<double>(n);
        const float floor = top + static_cast<float>(std::log(share)) - 1e-3f;
        least = std::max(least, nucleus_end(x, n, floor, params.top_p * total, work));
    }
    const double total = kernels.exp_sum(x, n, top, factor, least, weights, work.runs.get());
    const size_t n_runs = (n + kLogitRun - 1) / kLogitRun;
    double at = random * total;
    size_t run = 0, last = 0;
    for (; run < n_runs; ++run) {
        if (work.runs[run] <= 0.0) continue;
        last = run;
        if (at < work.runs[run]) break;
        at -= work.runs[run];
    }
    const size_t begin = last * kLogitRun;
    *id = static_cast<uint32_t>(begin + draw(weights + begin, std::min(kLogitRun, n - begin), at));
    return SamplingStatus::kOk;
}

SamplingStatus token_logprobs(const SamplingKernels& kernels, std::span<const float> logits, uint32_t id,
                              SamplingWorkspace& work, float* logprob, std::span<TokenLogprob> top,
                              size_t* n_top) {
    const size_t n = logits.size();
    float* maxima = work.maxima.get();
    if (!kernels.block_max(logits.data(), n, maxima)) return SamplingStatus::kNotFinite;
    const float high = *std::max_element(maxima, maxima + n_blocks(n));
    if (std::isinf(high)) return SamplingStatus::kNotFinite;
    const double norm =
        high + std::log(kernels.exp_sum(logits.data(), n, high, 1.0f, -kInfinity, nullptr, nullptr));
    *logprob = static_cast<float>(logits[id] - norm);
    *n_top = 0;
    if (top.empty()) return SamplingStatus::kOk;
    Candidate* c = work.candidates.get();
    *n_top = largest(logits.data(), n, maxima, top.size(), work.weights.get(), c);
    for (size_t i = 0; i < *n_top; ++i) top[i] = {c[i].id, static_cast<float>(c[i].logit - norm)};
    return SamplingStatus::kOk;
}

double uniform(uint64_t seed, uint64_t step) {
    const auto mix = [](uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    };
    return static_cast<double>(mix(mix(seed) + (step + 1) * 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

}  // namespace edgellm
