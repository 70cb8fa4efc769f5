// SPDX-License-Identifier: MIT
// Text to token ids and back, for the vocabulary of one model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/encoders.h"
#include "text/strings.h"

namespace edgellm {

// Types of tokens, as tokenizer.ggml.token_type numbers them.
enum class TokenType : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

// Space before a part of plain text.
enum class SpacePrefix : uint8_t {
    kNone,
    kEvery,   // always one more
    kAlways,  // unless it begins with one
    kFirst,   // the same, at the begin of the text only
};

struct TokenizerSpec {
    std::vector<TokenType> types;  // of each token
    std::vector<int32_t> markers;  // user-defined tokens that look like a part of a chat template
    std::vector<int32_t> strip_left, strip_right;  // tokens that swallow white space before and after them
    std::vector<int32_t> single_words;             // tokens that are no part of a word
    std::vector<int32_t> before, after;            // what a text begins and ends with
    int32_t unknown = -1;
    SpacePrefix space_prefix = SpacePrefix::kNone;
    bool is_bpe = false;
    BpeOptions bpe;
    std::vector<float> scores;  // not of BPE
};

class Tokenizer {
  public:
    // Tables must outlive the tokenizer; merges are BPE's. Throws ModelError.
    Tokenizer(const StringTable& tokens, const StringTable* merges, TokenizerSpec spec);

    size_t size() const { return tokens_.size(); }
    const TokenizerSpec& spec() const { return spec_; }
    bool is_special(int32_t token) const {
        const TokenType type = spec_.types[static_cast<size_t>(token)];
        return type == TokenType::kControl || type == TokenType::kUnknown;
    }

    // A part of a text, and whether its special tokens count as such.
    using Segment = std::pair<std::string_view, bool>;

    // Ids of the joined parts. In a part that is not trusted, and across its borders, texts of control tokens
    // and of markers are text like any other. marker_texts: markers are tokens anywhere. Throws ModelError.
    // Not thread-safe.
    std::vector<int32_t> encode(const std::vector<Segment>& segments, bool add_special,
                                bool marker_texts = false);
    // Bytes that a token adds to a text; the text itself of a special token.
    std::string bytes_of(int32_t token) const;

  private:
    struct Special {
        int32_t token = -1;
        size_t end = 0;
    };

    void find_specials();
    Special match(std::string_view text, std::string_view trusted, size_t position, bool marker_texts) const;
    void append_plain(std::string_view text, bool first, std::vector<int32_t>* ids);
    bool inside_a_word(std::string_view text, size_t begin, size_t end) const;

    const StringTable& tokens_;
    TokenizerSpec spec_;
    std::vector<uint8_t> hidden_, marker_;  // of each token
    std::unordered_map<std::string_view, int32_t> special_ids_;
    std::array<std::vector<size_t>, 256> lengths_;  // of specials by their first byte, longest first
    std::unique_ptr<PlainEncoder> encoder_;
    CharSet word_;
};

}  // namespace edgellm
