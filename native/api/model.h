// SPDX-License-Identifier: MIT
// A model file opened for the C API: engine, tokenizer, chat template, and the tokens of its sequences.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/edgellm.h"
#include "api/embedded.h"
#include "base/os/os.h"
#include "gguf/file.h"
#include "kernels/sampling/sampling.h"
#include "runtime/engine.h"
#include "text/strings.h"
#include "text/tokenizer.h"

namespace edgellm {

// A call that the caller could have known to fail; the status says why.
struct CallError : std::runtime_error {
    CallError(edgellm_status s, const std::string& what) : std::runtime_error(what), status(s) {}
    edgellm_status status;
};

class ApiModel {
  public:
    // Takes the mapping over, also if it throws ModelError, CallError or std::bad_alloc.
    ApiModel(const os::FileMapping& mapping, const edgellm_options& options);
    ~ApiModel();
    ApiModel(const ApiModel&) = delete;

    size_t n_vocab() const { return static_cast<size_t>(engine_->program().n_vocab); }
    size_t n_context() const { return engine_->options().context; }
    bool is_end(int32_t token) const;
    Tokenizer& tokenizer() { return *tokenizer_; }
    std::string token_text(int32_t token) const;
    std::vector<int32_t> chat(const std::vector<ChatFrames::Message>& messages);

    int32_t open_sequence();
    void close_sequence(int32_t sequence);
    size_t length(int32_t sequence) const { return held(sequence).size(); }
    size_t keep(int32_t sequence, std::span<const int32_t> tokens);
    // logits: nullptr, or of the last token. n_largest: as of Engine::step.
    void step(int32_t sequence, std::span<const int32_t> tokens, float* logits, size_t n_largest = 0);
    int32_t sample(const float* logits, const edgellm_sampling& sampling, std::span<const int32_t> history,
                   uint64_t step);

    using OnText = std::function<bool(std::string_view)>;  // false: enough
    size_t generate(int32_t sequence, std::span<const int32_t> tokens, const edgellm_sampling& sampling,
                    size_t max_tokens, const OnText& on_text);

  private:
    // Numbers of sequences are the caller's: the engine's own change where one is begun anew.
    struct Held {
        int engine_id;
        std::vector<int32_t> tokens;
    };

    void load(const edgellm_options& options);
    const std::vector<int32_t>& held(int32_t sequence) const;
    Held& at(int32_t sequence);
    // Logits past the vocabulary are padding of the output matrix and are never sampled.
    size_t n_sampled() const { return std::min(n_vocab(), tokenizer_->size()); }

    os::FileMapping mapping_;
    std::unique_ptr<GgufFile> file_;
    std::unique_ptr<StringTable> tokens_, merges_;
    EmbeddedTokenizer embedded_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::unique_ptr<ChatFrames> frames_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<SamplingWorkspace> workspace_;
    std::map<int32_t, Held> sequences_;
    std::vector<float> logits_;
};

}  // namespace edgellm
