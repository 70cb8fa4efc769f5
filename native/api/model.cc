// SPDX-License-Identifier: MIT
#include "api/model.h"

#include <algorithm>
#include <cstdlib>

#include "base/arch.h"
#include "base/error.h"
#include "kernels/limits/limits.h"
#include "text/utf8.h"

namespace edgellm {
namespace {

constexpr uint32_t kDefaultContext = 4096, kDefaultBatch = 512, kFloat32 = 0;

Isa chosen_isa() {
    const char* name = std::getenv("EDGELLM_ISA");
    if (name == nullptr || *name == '\0') return fastest_isa();
    Isa isa;
    if (!isa_from_name(name, &isa) || !isa_usable(isa, detect_cpu()))
        throw CallError(EDGELLM_BAD_ARGUMENT, "EDGELLM_ISA is '" + std::string(name) +
                                                  "', which this CPU or this build does not have");
    return isa;
}

// Rounded up to what the cache is made of.
size_t cache_tokens(size_t context, size_t n_sequences) {
    const size_t blocks = (context + kKvBlockTokens - 1) / kKvBlockTokens;
    return blocks * kKvBlockTokens * n_sequences;
}

void check(StepStatus status) {
    switch (status) {
        case StepStatus::kOk:
            return;
        case StepStatus::kContextFull:
            throw CallError(EDGELLM_CONTEXT_FULL, "the sequence would grow past n_context tokens");
        case StepStatus::kCacheFull:
            throw CallError(EDGELLM_CONTEXT_FULL,
                            "all sequences together would grow past n_sequences * n_context tokens");
        case StepStatus::kBadToken:
            throw CallError(EDGELLM_BAD_ARGUMENT, "a token is outside the vocabulary");
        default:
            throw CallError(EDGELLM_INTERNAL, "the engine refused a step");
    }
}

std::unique_ptr<StringTable> string_table(const os::FileMapping& mapping, const GgufFile& file,
                                          const char* key) {
    const auto strings = file.strings(key);
    if (!strings) throw ModelError(std::string(key) + " is missing: convert the model anew");
    return std::make_unique<StringTable>(mapping.data, mapping.bytes, strings->position, strings->count);
}

SamplingParams sampling_params(const edgellm_sampling& s) {
    SamplingParams params;
    params.temperature = s.temperature;
    params.top_k = s.top_k;
    params.top_p = s.top_p > 0 ? s.top_p : 1.0f;
    params.min_p = s.min_p;
    params.repeat_penalty = s.repeat_penalty > 0 ? s.repeat_penalty : 1.0f;
    return params;
}

}  // namespace

ApiModel::ApiModel(const os::FileMapping& mapping, const edgellm_options& options) : mapping_(mapping) {
    try {
        load(options);
    } catch (...) {
        engine_.reset();
        os::unmap_file(mapping_);
        throw;
    }
}

ApiModel::~ApiModel() {
    engine_.reset();
    os::unmap_file(mapping_);
}

void ApiModel::load(const edgellm_options& options) {
    file_ = std::make_unique<GgufFile>(mapping_.data, mapping_.bytes);
    const std::string_view program_text = embedded_program(*file_);
    tokens_ = string_table(mapping_, *file_, "tokenizer.ggml.tokens");
    embedded_ = embedded_tokenizer(*file_, tokens_->size());
    if (embedded_.spec.is_bpe) merges_ = string_table(mapping_, *file_, "tokenizer.ggml.merges");
    tokenizer_ = std::make_unique<Tokenizer>(*tokens_, merges_.get(), embedded_.spec);
    frames_ = std::make_unique<ChatFrames>(*file_);

    const Program program = parse_program(program_text);
    if (program.logits < 0)
        throw ModelError("the model makes embeddings; the C API runs models that write text");
    std::vector<TensorType> types;
    std::vector<TensorSource> sources;
    for (const GgufFile::Tensor& tensor : file_->tensors()) {
        types.push_back({tensor.name, tensor.type});
        sources.push_back({tensor.name, tensor.type, tensor.data, tensor.bytes});
    }
    bool all_floats = true;
    for (const WeightDecl& weight : program.weights) {
        for (const TensorType& type : types)
            all_floats = all_floats && (type.name != weight.name || type.type == kFloat32);
    }
    EngineOptions chosen;
    chosen.isa = chosen_isa();
    // 16 bits would lose digits of a model with f32 weights.
    chosen.kv_type = all_floats ? KvType::kF32 : faster_kv_type(chosen.isa);
    chosen.threads = options.n_threads != 0 ? options.n_threads : os::usable_cpus();
    const auto trained = static_cast<uint32_t>(std::max(program.n_ctx_train, 1));
    const auto longest = static_cast<uint32_t>(file_->integer("edgellm.embedded.context").value_or(trained));
    if (options.n_context > longest) {
        throw CallError(EDGELLM_BAD_ARGUMENT, "n_context is " + std::to_string(options.n_context) +
                                                  ", and the file's program is for " +
                                                  std::to_string(longest) +
                                                  " tokens: export the model with a larger --context");
    }
    chosen.context = options.n_context != 0 ? options.n_context : std::min(kDefaultContext, longest);
    chosen.cache_tokens = cache_tokens(chosen.context, std::max(options.n_sequences, 1u));
    chosen.batch = std::min<size_t>(options.n_batch != 0 ? options.n_batch : kDefaultBatch, chosen.context);
    engine_ = std::make_unique<Engine>(program_text, types, chosen);
    engine_->load(sources, true);
    workspace_ = std::make_unique<SamplingWorkspace>(n_sampled());
    logits_.resize(n_vocab());
}

bool ApiModel::is_end(int32_t token) const {
    return std::find(embedded_.ends.begin(), embedded_.ends.end(), token) != embedded_.ends.end();
}

std::string ApiModel::token_text(int32_t token) const {
    // A vocabulary may be rounded up: such tokens have no text.
    if (token < 0 || static_cast<size_t>(token) >= n_vocab())
        throw CallError(EDGELLM_BAD_ARGUMENT,
                        "token " + std::to_string(token) + " is outside the vocabulary");
    return static_cast<size_t>(token) < tokenizer_->size() ? tokenizer_->bytes_of(token) : std::string();
}

std::vector<int32_t> ApiModel::chat(const std::vector<ChatFrames::Message>& messages) {
    std::vector<int32_t> ids = tokenizer_->encode(frames_->prompt(messages), false);
    if (embedded_.begin >= 0 && (ids.empty() || ids[0] != embedded_.begin))
        ids.insert(ids.begin(), embedded_.begin);
    return ids;
}

int32_t ApiModel::open_sequence() {
    int32_t number = 0;
    while (sequences_.contains(number)) ++number;
    sequences_.emplace(number, Held{engine_->sequences().open(), {}});
    return number;
}

void ApiModel::close_sequence(int32_t sequence) {
    engine_->sequences().close(at(sequence).engine_id);
    sequences_.erase(sequence);
}

ApiModel::Held& ApiModel::at(int32_t sequence) {
    const auto found = sequences_.find(sequence);
    if (found == sequences_.end())
        throw CallError(EDGELLM_BAD_ARGUMENT, "sequence " + std::to_string(sequence) + " is not open");
    return found->second;
}

const std::vector<int32_t>& ApiModel::held(int32_t sequence) const {
    return const_cast<ApiModel*>(this)->at(sequence).tokens;
}

size_t ApiModel::keep(int32_t sequence, std::span<const int32_t> tokens) {
    Held& s = at(sequence);
    const size_t most = std::min(s.tokens.size(), tokens.size());
    size_t n = 0;
    while (n < most && s.tokens[n] == tokens[n]) ++n;
    if (n == s.tokens.size()) return n;
    if (!engine_->sequences().truncate(s.engine_id, n)) {
        engine_->sequences().close(s.engine_id);
        s.engine_id = engine_->sequences().open();
        n = 0;
    }
    s.tokens.resize(n);
    return n;
}

void ApiModel::step(int32_t sequence, std::span<const int32_t> tokens, float* logits, size_t n_largest) {
    Held& s = at(sequence);
    if (tokens.empty()) throw CallError(EDGELLM_BAD_ARGUMENT, "a step needs at least one token");
    const size_t batch = engine_->options().batch;
    std::vector<int32_t> owners(std::min(batch, tokens.size()), s.engine_id);
    for (size_t begin = 0; begin < tokens.size(); begin += batch) {
        const size_t n = std::min(batch, tokens.size() - begin);
        std::vector<uint8_t> outputs(n, 0);
        if (begin + n == tokens.size() && logits != nullptr) outputs.back() = 1;
        const auto part = tokens.subspan(begin, n);
        check(engine_->step(part.data(), owners.data(), outputs.data(), n, n_largest, logits));
        s.tokens.insert(s.tokens.end(), part.begin(), part.end());
    }
}

int32_t ApiModel::sample(const float* logits, const edgellm_sampling& sampling,
                         std::span<const int32_t> history, uint64_t step) {
    for (const int32_t id : history) {
        if (id < 0 || static_cast<size_t>(id) >= n_sampled())
            throw CallError(EDGELLM_BAD_ARGUMENT, "the history holds a token outside the vocabulary");
    }
    uint32_t id = 0;
    const std::span<const uint32_t> past(reinterpret_cast<const uint32_t*>(history.data()), history.size());
    const SamplingStatus status =
        sample_token(sampling_kernels(engine_->options().isa), sampling_params(sampling),
                     {logits, n_sampled()}, past, nullptr, uniform(sampling.seed, step), *workspace_, &id);
    if (status != SamplingStatus::kOk)
        throw ModelError("the model's logits hold NaN or infinity: its weights are damaged");
    return static_cast<int32_t>(id);
}

size_t ApiModel::generate(int32_t sequence, std::span<const int32_t> tokens, const edgellm_sampling& sampling,
                          size_t max_tokens, const OnText& on_text) {
    if (tokens.empty()) throw CallError(EDGELLM_BAD_ARGUMENT, "there is no token to continue from");
    // The last token is computed in any case, for its logits.
    const size_t n_kept = keep(sequence, tokens.first(tokens.size() - 1));
    const bool penalizes = sampling.repeat_penalty > 0 && sampling.repeat_penalty != 1.0f;
    size_t n_largest = penalizes ? 0 : sampling.temperature == 0 ? 1 : sampling.top_k;
    if (n_largest > 0) n_largest += n_vocab() - n_sampled();  // padding may be among the largest
    step(sequence, tokens.subspan(n_kept), logits_.data(), n_largest);
    std::string held_back;
    size_t n = 0;
    const auto give = [&](bool last) {
        const size_t whole = held_back.size() - (last ? 0 : unfinished_bytes(held_back));
        if (whole == 0) return true;
        const std::string piece = valid_utf8(std::string_view(held_back).substr(0, whole));
        held_back.erase(0, whole);
        return on_text == nullptr || on_text(piece);
    };
    while (max_tokens == 0 || n < max_tokens) {
        const int32_t token = sample(logits_.data(), sampling,
                                     penalizes ? std::span(held(sequence)) : std::span<const int32_t>(), n);
        if (is_end(token)) break;
        ++n;
        // Control tokens that end nothing are not shown.
        if (static_cast<size_t>(token) < tokenizer_->size() && !tokenizer_->is_special(token))
            held_back += tokenizer_->bytes_of(token);
        if (!give(false) || n == max_tokens || length(sequence) == n_context()) break;
        step(sequence, {&token, 1}, logits_.data(), n_largest);
    }
    give(true);
    return n;
}

}  // namespace edgellm
