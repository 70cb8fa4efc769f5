// SPDX-License-Identifier: MIT
#include "api/embedded.h"

#include <algorithm>

#include "base/error.h"

namespace edgellm {
namespace {

constexpr std::string_view kAdvice = "`edgellm export MODEL OUT.gguf` writes a copy with all that is needed";
constexpr int64_t kVersion = 1;

std::string key(std::string_view name) {
    return "edgellm.embedded." + std::string(name);
}

std::string required(const GgufFile& file, std::string_view name) {
    const auto value = file.text(key(name));
    if (!value) throw ModelError(key(name) + " is missing; " + std::string(kAdvice));
    return std::string(*value);
}

std::vector<int32_t> token_ids(const GgufFile& file, std::string_view name, size_t n_tokens) {
    std::vector<int32_t> ids = file.integers(key(name));
    for (const int32_t id : ids) {
        if (id < 0 || static_cast<size_t>(id) >= n_tokens)
            throw ModelError(key(name) + " holds " + std::to_string(id) + ", which is no token; " +
                             std::string(kAdvice));
    }
    return ids;
}

// A token's id, or -1 for none.
int32_t token_id(const GgufFile& file, std::string_view name, size_t n_tokens) {
    const int64_t id = file.integer(key(name)).value_or(-1);
    if (id < -1 || id >= static_cast<int64_t>(n_tokens))
        throw ModelError(key(name) + " is " + std::to_string(id) + ", which is no token; " +
                         std::string(kAdvice));
    return static_cast<int32_t>(id);
}

SpacePrefix space_prefix(const std::string& name) {
    if (name == "none") return SpacePrefix::kNone;
    if (name == "every") return SpacePrefix::kEvery;
    if (name == "always") return SpacePrefix::kAlways;
    if (name == "first") return SpacePrefix::kFirst;
    throw ModelError(key("space_prefix") + " is '" + name.substr(0, 80) + "', which is not known; " +
                     std::string(kAdvice));
}

BpeOptions bpe_options(const GgufFile& file) {
    const std::vector<std::string> rules = file.texts(key("rules")),
                                   categories = file.texts(key("rule_categories"));
    if (rules.size() != categories.size())
        throw ModelError(key("rule_categories") + " is not one for each rule; " + std::string(kAdvice));
    BpeOptions options;
    for (size_t i = 0; i < rules.size(); ++i) options.rules.push_back({rules[i], categories[i]});
    options.ignore_merges = file.flag(key("ignore_merges")).value_or(false);
    options.byte_level = file.flag(key("byte_level")).value_or(true);
    return options;
}

std::vector<TokenType> token_types(const GgufFile& file, size_t n_tokens) {
    const std::vector<int32_t> stored = file.integers("tokenizer.ggml.token_type");
    if (!stored.empty() && stored.size() != n_tokens)
        throw ModelError("tokenizer.ggml.token_type is not one for each token: fetch the file again");
    std::vector<TokenType> types(n_tokens, TokenType::kNormal);
    for (size_t i = 0; i < stored.size(); ++i) types[i] = static_cast<TokenType>(stored[i]);
    for (const int32_t id : token_ids(file, "control_ids", n_tokens))
        types[static_cast<size_t>(id)] = TokenType::kControl;
    return types;
}

}  // namespace

std::string_view embedded_program(const GgufFile& file) {
    const auto program = file.text(key("program"));
    if (!program)
        throw ModelError("the file holds no program for a device without Python; " + std::string(kAdvice));
    const int64_t version = file.integer(key("version")).value_or(0);
    if (version != kVersion) {
        throw ModelError(key("version") + " is " + std::to_string(version) + ", expected " +
                         std::to_string(kVersion) + "; " + std::string(kAdvice));
    }
    return *program;
}

EmbeddedTokenizer embedded_tokenizer(const GgufFile& file, size_t n_tokens) {
    const std::string kind = required(file, "tokenizer");
    EmbeddedTokenizer result;
    TokenizerSpec& spec = result.spec;
    if (kind == "none") throw ModelError(required(file, "tokenizer_reason"));
    if (kind != "bpe" && kind != "spm")
        throw ModelError(key("tokenizer") + " is '" + kind.substr(0, 80) + "', expected bpe or spm; " +
                         std::string(kAdvice));
    spec.is_bpe = kind == "bpe";
    spec.types = token_types(file, n_tokens);
    spec.markers = token_ids(file, "marker_ids", n_tokens);
    spec.strip_left = token_ids(file, "lstrip_ids", n_tokens);
    spec.strip_right = token_ids(file, "rstrip_ids", n_tokens);
    spec.single_words = token_ids(file, "single_word_ids", n_tokens);
    spec.before = token_ids(file, "before_ids", n_tokens);
    spec.after = token_ids(file, "after_ids", n_tokens);
    spec.unknown = token_id(file, "unknown_id", n_tokens);
    spec.space_prefix = space_prefix(required(file, "space_prefix"));
    if (spec.is_bpe)
        spec.bpe = bpe_options(file);
    else
        spec.scores = file.floats("tokenizer.ggml.scores");
    result.ends = token_ids(file, "end_ids", n_tokens);
    result.begin = token_id(file, "begin_id", n_tokens);
    return result;
}

ChatFrames::ChatFrames(const GgufFile& file) {
    const auto reason = file.text(key("chat_reason"));
    if (reason) {
        reason_ = *reason;
        return;
    }
    const std::vector<std::string> roles = file.texts(key("chat_roles")), next = file.texts(key("chat_next")),
                                   texts = file.texts(key("chat_texts"));
    if (roles.size() != next.size() || roles.size() != texts.size())
        throw ModelError(key("chat_texts") + " is not one for each pair of roles; " + std::string(kAdvice));
    for (size_t i = 0; i < roles.size(); ++i) texts_.emplace(std::pair(roles[i], next[i]), texts[i]);
    for (std::string& role : file.texts(key("chat_trimmed"))) trimmed_.insert(std::move(role));
    if (texts_.empty()) reason_ = "the file holds no chat template; " + std::string(kAdvice);
}

const std::string& ChatFrames::between(std::string_view role, std::string_view next) const {
    const auto found = texts_.find(std::pair(std::string(role), std::string(next)));
    if (found != texts_.end()) return found->second;
    const auto named = [](std::string_view r) {
        return r.empty() ? std::string("the conversation's end")
                         : "a message of the role '" + std::string(r.substr(0, 80)) + "'";
    };
    throw ModelError("the model's chat template does not allow " + named(next) +
                     (role.empty() ? std::string(" at the begin") : " after " + named(role)));
}

std::vector<Tokenizer::Segment> ChatFrames::prompt(const std::vector<Message>& messages) const {
    if (!reason_.empty()) throw ModelError(reason_);
    std::vector<Tokenizer::Segment> parts;
    std::string_view role;
    for (const Message& message : messages) {
        parts.emplace_back(between(role, message.role), true);
        role = message.role;
        std::string_view text = message.text;
        if (trimmed_.contains(role)) {
            constexpr std::string_view kSpaces = " \t\n\v\f\r\x1c\x1d\x1e\x1f";
            const size_t begin = std::min(text.find_first_not_of(kSpaces), text.size());
            text = text.substr(begin, text.find_last_not_of(kSpaces) + 1 - begin);
        }
        parts.emplace_back(text, false);
    }
    parts.emplace_back(between(role, ""), true);
    return parts;
}

}  // namespace edgellm
