// SPDX-License-Identifier: MIT
#include "text/encoders.h"

#include <queue>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "text/utf8.h"

namespace edgellm {
namespace {

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581
constexpr size_t kKnownBytes = 64, kMostKnown = 65'536;

struct ByteAlphabet {
    std::array<std::string, 256> characters;
    std::array<int16_t, 512> bytes;  // of a character; -1: none

    ByteAlphabet() {
        bytes.fill(-1);
        char32_t beyond = 256;
        for (size_t byte = 0; byte < 256; ++byte) {
            const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
            const char32_t c = printable ? static_cast<char32_t>(byte) : beyond++;
            append_utf8(&characters[byte], c);
            bytes[c] = static_cast<int16_t>(byte);
        }
    }
};

const ByteAlphabet& byte_alphabet() {
    static const ByteAlphabet alphabet;
    return alphabet;
}

std::string with_visible_spaces(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    for (const char c : text) {
        if (c == ' ')
            result += kSpace;
        else
            result += c;
    }
    return result;
}

// Characters of a word, which merging makes longer: each symbol is word[begin, end), and empty once it is
// part of the one before it.
struct Symbol {
    size_t begin, end;
    size_t before, after;  // neighbours that are not empty
};

constexpr size_t kNone = SIZE_MAX;

std::vector<Symbol> symbols_of(std::string_view word) {
    std::vector<Symbol> symbols;
    for (size_t i = 0; i < word.size();) {
        const size_t begin = i;
        next_character(word, &i);
        const size_t n = symbols.size();
        symbols.push_back({begin, i, n == 0 ? kNone : n - 1, n + 1});
    }
    if (!symbols.empty()) symbols.back().after = kNone;
    return symbols;
}

// Merges the neighbours with the lowest priority, leftmost first, until no pair has one. priority(left,
// right) is nullopt for pairs that do not merge. O(n log n).
template <class Priority>
std::vector<Symbol> merged(std::string_view word, const Priority& priority) {
    struct Pair {
        double priority;
        size_t left, bytes;
        bool operator>(const Pair& o) const {
            return std::tie(priority, left, bytes) > std::tie(o.priority, o.left, o.bytes);
        }
    };
    std::vector<Symbol> symbols = symbols_of(word);
    std::priority_queue<Pair, std::vector<Pair>, std::greater<>> queue;
    const auto offer = [&](size_t left) {
        const Symbol& a = symbols[left];
        if (a.after == kNone) return;
        const Symbol& b = symbols[a.after];
        const std::optional<double> p =
            priority(word.substr(a.begin, a.end - a.begin), word.substr(b.begin, b.end - b.begin));
        if (p) queue.push({*p, left, b.end - a.begin});
    };
    for (size_t i = 0; i < symbols.size(); ++i) offer(i);
    while (!queue.empty()) {
        const Pair best = queue.top();
        queue.pop();
        Symbol& left = symbols[best.left];
        if (left.begin == left.end || left.after == kNone) continue;
        Symbol& right = symbols[left.after];
        // A symbol only grows to the right: the same size means the same two symbols as when they were
        // queued.
        if (right.end - left.begin != best.bytes) continue;
        left.end = right.end;
        right.begin = right.end;
        left.after = right.after;
        if (left.after != kNone) symbols[left.after].before = best.left;
        offer(best.left);
        if (left.before != kNone) offer(left.before);
    }
    return symbols;
}

}  // namespace

const std::string& byte_level_character(uint8_t byte) {
    return byte_alphabet().characters[byte];
}

int byte_level_byte(char32_t character) {
    return character < 512 ? byte_alphabet().bytes[character] : -1;
}

int32_t PlainTokens::id(std::string_view text) const {
    const int64_t token = tokens.find(text);
    return token < 0 || hidden[static_cast<size_t>(token)] != 0 ? -1 : static_cast<int32_t>(token);
}

void PlainTokens::append_bytes(std::string_view text, std::vector<int32_t>* ids) const {
    const size_t n = ids->size();
    for (const char c : text) {
        const int32_t token = byte_ids[static_cast<uint8_t>(c)];
        if (token >= 0) {
            ids->push_back(token);
            continue;
        }
        if (unknown < 0) {
            throw ModelError("the vocabulary has no token for '" + std::string(text.substr(0, 80)) +
                             "', no byte tokens and no unknown token: convert the model anew");
        }
        ids->resize(n);
        ids->push_back(unknown);
        return;
    }
}

BpeEncoder::BpeEncoder(PlainTokens tokens, const StringTable& merges, const BpeOptions& options)
    : tokens_(std::move(tokens)),
      merges_(merges),
      ignore_merges_(options.ignore_merges),
      byte_level_(options.byte_level),
      pre_tokenizer_(options.rules) {}

void BpeEncoder::encode(std::string_view text, std::vector<int32_t>* ids) {
    const std::string spaced = byte_level_ ? std::string() : with_visible_spaces(text);
    std::string key;
    for (const std::string_view piece : pre_tokenizer_.split(byte_level_ ? text : spaced)) {
        if (piece.size() > kKnownBytes) {
            encode_piece(piece, ids);
            continue;
        }
        key.assign(piece);
        auto found = known_.find(key);
        if (found == known_.end()) {
            std::vector<int32_t> of_piece;
            encode_piece(piece, &of_piece);
            if (known_.size() >= kMostKnown) known_.clear();
            found = known_.emplace(key, std::move(of_piece)).first;
        }
        ids->insert(ids->end(), found->second.begin(), found->second.end());
    }
}

void BpeEncoder::encode_piece(std::string_view piece, std::vector<int32_t>* ids) {
    std::string word;
    if (byte_level_) {
        for (const char c : piece) word += byte_level_character(static_cast<uint8_t>(c));
    } else {
        word = piece;
    }
    // Runs of newlines may be tokens that no merges lead to.
    if (ignore_merges_ || word.find_first_not_of('\n') == std::string::npos) {
        if (const int32_t whole = tokens_.id(word); whole >= 0) {
            ids->push_back(whole);
            return;
        }
    }
    const auto rank = [this](std::string_view left, std::string_view right) -> std::optional<double> {
        pair_.assign(left).append(1, ' ').append(right);
        const int64_t found = merges_.find(pair_);
        return found < 0 ? std::nullopt : std::optional<double>(static_cast<double>(found));
    };
    for (const Symbol& s : merged(word, rank)) {
        if (s.begin == s.end) continue;
        const std::string_view symbol = std::string_view(word).substr(s.begin, s.end - s.begin);
        if (const int32_t token = tokens_.id(symbol); token >= 0) {
            ids->push_back(token);
        } else if (symbol.size() > utf8_length(static_cast<uint8_t>(symbol[0]))) {
            throw ModelError("tokenizer.ggml.merges makes '" + std::string(symbol.substr(0, 80)) +
                             "', which is not in tokenizer.ggml.tokens: convert the model anew");
        } else if (!byte_level_) {
            tokens_.append_bytes(symbol, ids);
        }
        // A byte that the vocabulary does not have, as few valid texts need it, is left out, as in the
        // `tokenizers` library and llama.cpp.
    }
}

SpmEncoder::SpmEncoder(PlainTokens tokens, std::vector<float> scores)
    : tokens_(std::move(tokens)), scores_(std::move(scores)) {}

void SpmEncoder::encode(std::string_view text, std::vector<int32_t>* ids) {
    const std::string word = with_visible_spaces(text);
    const auto cost = [&](std::string_view left, std::string_view right) -> std::optional<double> {
        // Neighbours: together they are one part of the word.
        const int32_t token = tokens_.id({left.data(), left.size() + right.size()});
        return token < 0 ? std::nullopt : std::optional<double>(-double{scores_[static_cast<size_t>(token)]});
    };
    for (const Symbol& s : merged(word, cost)) {
        if (s.begin == s.end) continue;
        const std::string_view symbol = std::string_view(word).substr(s.begin, s.end - s.begin);
        if (const int32_t token = tokens_.id(symbol); token >= 0)
            ids->push_back(token);
        else
            tokens_.append_bytes(symbol, ids);
    }
}

}  // namespace edgellm
