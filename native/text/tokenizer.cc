// SPDX-License-Identifier: MIT
#include "text/tokenizer.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "text/utf8.h"

namespace edgellm {
namespace {

constexpr std::string_view kSpaces = " \t\n\v\f\r";
constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";

bool contains(const std::vector<int32_t>& ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

int hexadecimal(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// The byte of a token <0xXX>; throws ModelError for another text.
uint8_t byte_of(std::string_view text) {
    const bool formed = text.size() == 6 && text.starts_with("<0x") && text[5] == '>';
    const int high = formed ? hexadecimal(text[3]) : -1, low = formed ? hexadecimal(text[4]) : -1;
    if (high < 0 || low < 0)
        throw ModelError(
            "tokenizer.ggml.tokens holds a byte token that is not <0x00> to <0xFF>: convert the model anew");
    return static_cast<uint8_t>(high * 16 + low);
}

}  // namespace

Tokenizer::Tokenizer(const StringTable& tokens, const StringTable* merges, TokenizerSpec spec)
    : tokens_(tokens), spec_(std::move(spec)), word_(*CharSet::named("word")) {
    if (spec_.types.size() != tokens.size() || (!spec_.is_bpe && spec_.scores.size() != tokens.size()))
        throw ModelError(
            "the vocabulary's types or scores are not one for each token: convert the model anew");
    find_specials();
    PlainTokens plain{tokens_, hidden_, {}, spec_.unknown};
    plain.byte_ids.fill(-1);
    for (size_t i = 0; i < tokens_.size(); ++i) {
        if (spec_.types[i] == TokenType::kByte)
            plain.byte_ids[byte_of(tokens_.at(i))] = static_cast<int32_t>(i);
    }
    if (spec_.is_bpe)
        encoder_ = std::make_unique<BpeEncoder>(std::move(plain), *merges, spec_.bpe);
    else
        encoder_ = std::make_unique<SpmEncoder>(std::move(plain), spec_.scores);
}

void Tokenizer::find_specials() {
    hidden_.assign(tokens_.size(), 0);
    marker_.assign(tokens_.size(), 0);
    for (const int32_t id : spec_.markers)
        marker_[static_cast<size_t>(id)] = hidden_[static_cast<size_t>(id)] = 1;
    for (size_t i = 0; i < tokens_.size(); ++i) {
        const TokenType type = spec_.types[i];
        const std::string_view text = tokens_.at(i);
        if (type == TokenType::kNormal || type == TokenType::kUnused || text.empty()) continue;
        if (type != TokenType::kUserDefined) hidden_[i] = 1;
        if (type == TokenType::kByte) continue;
        special_ids_.emplace(text, static_cast<int32_t>(i));
        std::vector<size_t>& lengths = lengths_[static_cast<uint8_t>(text[0])];
        if (std::find(lengths.begin(), lengths.end(), text.size()) == lengths.end())
            lengths.push_back(text.size());
    }
    for (std::vector<size_t>& lengths : lengths_) std::sort(lengths.begin(), lengths.end(), std::greater<>());
}

Tokenizer::Special Tokenizer::match(std::string_view text, std::string_view trusted, size_t position,
                                    bool marker_texts) const {
    for (const size_t length : lengths_[static_cast<uint8_t>(text[position])]) {
        if (position + length > text.size()) continue;
        const auto found = special_ids_.find(text.substr(position, length));
        if (found == special_ids_.end()) continue;
        const int32_t token = found->second;
        const bool guarded = is_special(token) || (!marker_texts && marker_[static_cast<size_t>(token)] != 0);
        if (!guarded || trusted.substr(position, length).find('\0') == std::string_view::npos)
            return {token, position + length};
    }
    return {};
}

std::vector<int32_t> Tokenizer::encode(const std::vector<Segment>& segments, bool add_special,
                                       bool marker_texts) {
    std::string text, trusted;
    for (const auto& [part, is_trusted] : segments) {
        const std::string valid = valid_utf8(part);
        text += valid;
        trusted.append(valid.size(), is_trusted ? '\1' : '\0');
    }
    std::vector<int32_t> ids;
    if (add_special) ids = spec_.before;
    const std::string_view whole = text;
    size_t begin = 0;
    bool first = true;
    for (size_t position = 0; position < whole.size();) {
        Special special = match(whole, trusted, position, marker_texts);
        if (special.token < 0) {
            ++position;
            continue;
        }
        if (contains(spec_.single_words, special.token) && inside_a_word(whole, position, special.end)) {
            position = special.end;
            continue;
        }
        std::string_view plain = whole.substr(begin, position - begin);
        if (contains(spec_.strip_left, special.token))
            plain = plain.substr(0, plain.find_last_not_of(kSpaces) + 1);
        if (!plain.empty()) {
            append_plain(plain, first, &ids);
            first = false;
        }
        ids.push_back(special.token);
        first = false;
        if (contains(spec_.strip_right, special.token)) {
            special.end = std::min(whole.find_first_not_of(kSpaces, special.end), whole.size());
        }
        begin = position = special.end;
    }
    if (begin < whole.size()) append_plain(whole.substr(begin), first, &ids);
    if (add_special) ids.insert(ids.end(), spec_.after.begin(), spec_.after.end());
    return ids;
}

void Tokenizer::append_plain(std::string_view text, bool first, std::vector<int32_t>* ids) {
    const bool byte_level = spec_.is_bpe && spec_.bpe.byte_level;
    const bool spaced = text.starts_with(' ') || (!byte_level && text.starts_with(kVisibleSpace));
    const SpacePrefix rule = spec_.space_prefix;
    const bool prefixed =
        rule == SpacePrefix::kEvery ||
        (!spaced && (rule == SpacePrefix::kAlways || (rule == SpacePrefix::kFirst && first)));
    encoder_->encode((prefixed ? " " : "") + std::string(text), ids);
}

bool Tokenizer::inside_a_word(std::string_view text, size_t begin, size_t end) const {
    if (end < text.size() && word_.has(next_character(text, &end))) return true;
    if (begin == 0) return false;
    size_t before = begin - 1;
    while (before > 0 && (static_cast<uint8_t>(text[before]) & 0xc0) == 0x80) --before;
    return word_.has(next_character(text, &before));
}

std::string Tokenizer::bytes_of(int32_t token) const {
    const std::string_view text = tokens_.at(static_cast<size_t>(token));
    const TokenType type = spec_.types[static_cast<size_t>(token)];
    if (type == TokenType::kByte) return std::string(1, static_cast<char>(byte_of(text)));
    if (is_special(token) || type == TokenType::kUserDefined) return std::string(text);
    std::string bytes;
    if (spec_.is_bpe && spec_.bpe.byte_level) {
        for (size_t i = 0; i < text.size();) {
            const size_t begin = i;
            const int byte = byte_level_byte(next_character(text, &i));
            // Vocabularies that list added tokens as normal ones have characters outside the alphabet.
            if (byte >= 0)
                bytes += static_cast<char>(byte);
            else
                bytes += text.substr(begin, i - begin);
        }
        return bytes;
    }
    for (size_t i = 0; i < text.size();) {
        if (text.substr(i).starts_with(kVisibleSpace)) {
            bytes += ' ';
            i += kVisibleSpace.size();
        } else {
            bytes += text[i++];
        }
    }
    return bytes;
}

}  // namespace edgellm
