// SPDX-License-Identifier: MIT
// Byte-pair encoding of plain text, which has no special tokens: by the merges of a file, or by its scores.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/strings.h"

namespace edgellm {

// Tokens that text may become.
struct PlainTokens {
    const StringTable& tokens;
    std::vector<uint8_t> hidden;        // of each token: not 0 if text must not become it
    std::array<int32_t, 256> byte_ids;  // -1: there is no token of this byte
    int32_t unknown = -1;               // or -1

    int32_t id(std::string_view text) const;
    // Appends the byte tokens of a text that is no token, or the unknown token. Throws ModelError if the
    // vocabulary has neither.
    void append_bytes(std::string_view text, std::vector<int32_t>* ids) const;
};

class PlainEncoder {
  public:
    virtual ~PlainEncoder() = default;
    // Appends the ids of `text`, UTF-8. Throws ModelError if the vocabulary cannot express it. Not
    // thread-safe.
    virtual void encode(std::string_view text, std::vector<int32_t>* ids) = 0;
};

struct BpeOptions {
    std::vector<PreTokenizerRule> rules;
    bool ignore_merges = false;  // a piece that is a token stays whole
    bool byte_level = true;      // bytes are GPT-2's characters; otherwise spaces are U+2581
};

// Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
class BpeEncoder : public PlainEncoder {
  public:
    // merges: both parts of each with a space between, best first. Tokens and merges must outlive the
    // encoder.
    BpeEncoder(PlainTokens tokens, const StringTable& merges, const BpeOptions& options);
    void encode(std::string_view text, std::vector<int32_t>* ids) override;

  private:
    void encode_piece(std::string_view piece, std::vector<int32_t>* ids);

    PlainTokens tokens_;
    const StringTable& merges_;
    bool ignore_merges_, byte_level_;
    PreTokenizer pre_tokenizer_;
    std::unordered_map<std::string, std::vector<int32_t>> known_;  // ids of short pieces: words come back
    std::string pair_;
};

// SentencePiece's BPE: the neighbours that make the token with the best score are joined first.
class SpmEncoder : public PlainEncoder {
  public:
    // scores: of each token.
    SpmEncoder(PlainTokens tokens, std::vector<float> scores);
    void encode(std::string_view text, std::vector<int32_t>* ids) override;

  private:
    PlainTokens tokens_;
    std::vector<float> scores_;
};

// Bytes of GPT-2's character for a byte: printable Latin-1 stands for itself, the others from U+0100 on.
const std::string& byte_level_character(uint8_t byte);
// The byte that a character stands for; -1 if it stands for none.
int byte_level_byte(char32_t character);

}  // namespace edgellm
