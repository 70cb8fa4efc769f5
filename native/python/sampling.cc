// SPDX-License-Identifier: MIT
// edgellm._native.TokenSampler: parameters and memory of one sampler. The caller checks the parameters.
#include "kernels/sampling/sampling.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/arch.h"
#include "base/float_mode.h"
#include "python/bindings.h"
#include "python/signatures.h"
#include "python/usable_isa.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logprobs = std::vector<std::pair<uint32_t, float>>;

Isa chosen_isa(const std::string& name) {
    return name.empty() ? best_isa(detect_cpu()) : usable_isa(name);
}

// One workspace for all samplers of the calling thread: a server makes a sampler for every answer, and
// megabytes for each would fragment the allocator's memory.
SamplingWorkspace& workspace(size_t n_vocab) {
    thread_local std::unique_ptr<SamplingWorkspace> work;
    if (!work || work->n_vocab != n_vocab) {
        work.reset();
        work = std::make_unique<SamplingWorkspace>(n_vocab);
    }
    return *work;
}

class TokenSampler {
  public:
    // penalties: repeat, presence, frequency.
    TokenSampler(float temperature, uint32_t top_k, float top_p, float min_p,
                 const std::tuple<float, float, float>& penalties,
                 const std::vector<std::pair<uint32_t, float>>& bias, int64_t n_probs, const std::string& isa)
        : kernels_(sampling_kernels(chosen_isa(isa))), n_probs_(n_probs) {
        for (const auto& [id, value] : bias) bias_.push_back({id, value});
        const auto& [repeat, presence, frequency] = penalties;
        params_ = {temperature, top_k, top_p, min_p, repeat, presence, frequency, bias_};
    }
    TokenSampler(const TokenSampler&) = delete;

    // (id, logprob, top): logprob is NaN and top empty where n_probs < 0.
    std::tuple<uint32_t, float, Logprobs> sample(Logits logits, Ids history, std::optional<Mask> mask,
                                                 uint64_t seed, uint64_t step) {
        const std::span<const float> row(logits.data(), logits.size());
        check_size(row.size());
        SamplingWorkspace& work = workspace(row.size());
        const std::span<const uint32_t> ids(reinterpret_cast<const uint32_t*>(history.data()),
                                            history.size());
        for (uint32_t id : ids) {
            if (id >= row.size())
                throw nb::index_error(("The history holds token " + std::to_string(static_cast<int32_t>(id)) +
                                       "; the vocabulary has " + std::to_string(row.size()))
                                          .c_str());
        }
        std::span<const uint32_t> words;
        if (mask) words = {mask->data(), mask->size()};
        uint32_t id = 0;
        float logprob = std::nanf("");
        Logprobs top;
        SamplingStatus status;
        {
            nb::gil_scoped_release release;
            status = sample_token(kernels_, params_, row, ids, mask ? &words : nullptr, uniform(seed, step),
                                  work, &id);
            if (n_probs_ >= 0 && status == SamplingStatus::kOk) {
                size_t n_top;
                status = token_logprobs(kernels_, row, id, work, &logprob, top_, &n_top);
                for (size_t i = 0; i < n_top; ++i) top.emplace_back(top_[i].id, top_[i].logprob);
            }
        }
        if (status == SamplingStatus::kNothingAllowed)
            throw nb::index_error("No token is allowed: the mask or logit_bias forbids every one");
        if (status == SamplingStatus::kNotFinite) {
            PyErr_SetString(PyExc_FloatingPointError, "a logit is NaN or infinite");
            throw nb::python_error();
        }
        return {id, logprob, std::move(top)};
    }

  private:
    void check_size(size_t n) {
        if (n == n_checked_) return;
        if (n == 0) throw std::invalid_argument("a row of logits cannot be empty");
        for (const LogitBias& b : bias_) {
            if (b.id >= n)
                throw nb::index_error(("logit_bias names token " + std::to_string(b.id) +
                                       "; the vocabulary has " + std::to_string(n))
                                          .c_str());
        }
        n_checked_ = n;
        top_.resize(std::min(n, static_cast<size_t>(std::max<int64_t>(n_probs_, 0))));
    }

    const SamplingKernels& kernels_;
    int64_t n_probs_;
    size_t n_checked_ = 0;
    std::vector<LogitBias> bias_;
    SamplingParams params_;
    std::vector<TokenLogprob> top_;
};

}  // namespace

void bind_sampling(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<TokenSampler>(m, "TokenSampler")
        .def(nb::init<float, uint32_t, float, float, const std::tuple<float, float, float>&,
                      const std::vector<std::pair<uint32_t, float>>&, int64_t, const std::string&>(),
             nb::call_guard<FloatMode>(), nb::kw_only(), "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a,
             "penalties"_a, "logit_bias"_a, "n_probs"_a, "isa"_a = "",
             "penalties: repeat, presence and frequency. n_probs: number of likeliest tokens; -1: no log "
             "probabilities.")
        .def("sample", &TokenSampler::sample, nb::call_guard<FloatMode>(), "logits"_a, "history"_a,
             "mask"_a.none(), "seed"_a, "step"_a,
             nb::sig("def sample(self, logits: " EDGELLM_FLOAT32 ", history: " EDGELLM_INT32
                     ", mask: " EDGELLM_UINT32 " | None, seed: int, step: int) -> "
                     "tuple[int, float, list[tuple[int, float]]]"),
             "Chooses a token: (id, logprob, top) from float32 logits, int32 history, uint32 mask. "
             "FloatingPointError: a\nlogit is NaN or infinite. IndexError: no token is allowed.");
}
