// SPDX-License-Identifier: MIT
// From a row of logits to a token.
//
// Logit bias, penalties and mask come first. Then temperature 0 takes the largest logit (the lowest id among
// equals). Any other temperature draws from softmax(logits / temperature) over the tokens that top-k, top-p
// and min-p keep. These cut the distribution before temperature: top-k keeps the k largest logits (lowest ids
// among equals), top-p the shortest run of them, in falling order, whose share is at least p, min-p those at
// least min_p times as likely as the first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/arch.h"

namespace edgellm {

constexpr size_t kLogitBlock = 64;
constexpr size_t kLogitRun = 1024;

struct SamplingKernels {
    // Largest value of each block of kLogitBlock logits (the last may be shorter). False if a logit is NaN.
    bool (*block_max)(const float* x, size_t n, float* max);
    // Sum of exp((x - top) * factor) over x >= least; top >= x, factor > 0. Unless p is nullptr, it receives
    // the n terms (0 below least), and `runs` the sum of each kLogitRun terms. p may not be x.
    double (*exp_sum)(const float* x, size_t n, float top, float factor, float least, float* p, double* runs);
};
const SamplingKernels& sampling_kernels(Isa isa);

struct LogitBias {
    uint32_t id;
    float value;  // -infinity forbids
};

struct SamplingParams {
    float temperature = 0.0f;
    uint32_t top_k = 0;  // 0: off
    float top_p = 1.0f;
    float min_p = 0.0f;
    // Divides positive logits of tokens in the history, multiplies others.
    float repeat_penalty = 1.0f;
    float presence_penalty = 0.0f;   // subtracted once from every token in the history
    float frequency_penalty = 0.0f;  // subtracted per occurrence
    std::span<const LogitBias> bias;
};

struct TokenLogprob {
    uint32_t id;
    float logprob;
};

enum class SamplingStatus { kOk, kNotFinite, kNothingAllowed };

// Scratch memory for rows of n_vocab logits, used by one call at a time.
class SamplingWorkspace {
  public:
    explicit SamplingWorkspace(size_t n_vocab);

    struct Candidate {
        float logit;
        uint32_t id;
    };

    size_t n_vocab;
    std::unique_ptr<float[]> logits;     // (n_vocab,) after bias, penalties and mask
    std::unique_ptr<float[]> weights;    // (n_vocab,)
    std::unique_ptr<double[]> runs;      // (n_vocab / kLogitRun,) rounded up
    std::unique_ptr<float[]> maxima;     // (n_vocab / kLogitBlock,) rounded up
    std::unique_ptr<double[]> mass;      // a histogram of weights
    std::unique_ptr<uint32_t[]> counts;  // (n_vocab,) zero between calls
    std::unique_ptr<Candidate[]> candidates;
};

// Chooses a token. `history`: ids below n_vocab that penalties apply to. `mask`: nullptr, or words whose bit
// id % 32 of word id / 32 allows a token; ids past its end are forbidden. `random`: in [0, 1).
SamplingStatus sample_token(const SamplingKernels& kernels, const SamplingParams& params,
                            std::span<const float> logits, std::span<const uint32_t> history,
                            const std::span<const uint32_t>* mask, double random, SamplingWorkspace& work,
                            uint32_t* id);

// Log softmax of the unchanged logits: of `id`, and of the largest in falling order. *n_top counts the
// latter: top.size(), or as many as are above -infinity.
SamplingStatus token_logprobs(const SamplingKernels& kernels, std::span<const float> logits, uint32_t id,
                              SamplingWorkspace& work, float* logprob, std::span<TokenLogprob> top,
                              size_t* n_top);

// Uniform in [0, 1): number `step` of the stream `seed` (SplitMix64). The same on every platform.
double uniform(uint64_t seed, uint64_t step);

}  // namespace edgellm
