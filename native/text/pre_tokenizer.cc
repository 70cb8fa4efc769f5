// SPDX-License-Identifier: MIT
#include "text/pre_tokenizer.h"

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "text/utf8.h"

namespace edgellm {
namespace {

// Steps of matching that a text of n characters may take: expressions in use need some ten a character.
uint64_t step_limit(size_t n) {
    return 10'000'000 + uint64_t{n} * 1'000;
}

using Cuts = std::vector<size_t>;  // ends of pieces, in characters

// Appends the ends of the pieces of [begin, end).
void cut(const Regex& regex, std::u32string_view text, size_t begin, size_t end, uint64_t* steps,
         Cuts* cuts) {
    const std::u32string_view piece = text.substr(begin, end - begin);
    size_t done = 0;
    Regex::Match match;
    for (size_t from = 0; from < piece.size() && regex.find(piece, from, steps, &match);) {
        from = std::max(match.end, match.begin + 1);
        if (match.end == match.begin) continue;
        if (match.begin > done) cuts->push_back(begin + match.begin);
        cuts->push_back(begin + match.end);
        done = match.end;
    }
    if (done < piece.size()) cuts->push_back(end);
}

Cuts in_threes(const CharSet& digits, std::u32string_view text, const Cuts& cuts) {
    Cuts result;
    size_t begin = 0;
    for (const size_t end : cuts) {
        const bool all = std::all_of(text.begin() + static_cast<ptrdiff_t>(begin),
                                     text.begin() + static_cast<ptrdiff_t>(end),
                                     [&digits](char32_t c) { return digits.has(c); });
        for (size_t at = begin + (end - begin) % 3; all && at < end; at += 3) {
            if (at > begin) result.push_back(at);
        }
        result.push_back(end);
        begin = end;
    }
    return result;
}

}  // namespace

PreTokenizer::PreTokenizer(const std::vector<PreTokenizerRule>& rules) {
    for (const PreTokenizerRule& rule : rules) {
        const std::string shown = rule.expression.substr(0, 80);
        const auto digits = CharSet::named(rule.category.empty() ? "Nd" : rule.category);
        if (!digits) throw ModelError("the pre-tokenizer's category " + rule.category + " is not known");
        try {
            rules_.push_back({shown, Regex(rule.expression), !rule.category.empty(), *digits});
        } catch (const std::invalid_argument& error) {
            throw ModelError("the pre-tokenizer's expression " + shown + " is not supported (" +
                             error.what() + "): convert the model anew");
        }
    }
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
    std::vector<size_t> offsets;  // of characters, in bytes
    std::u32string characters;
    offsets.reserve(text.size() + 1);
    characters.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        offsets.push_back(i);
        characters += next_character(text, &i);
    }
    offsets.push_back(text.size());

    uint64_t steps = step_limit(characters.size());
    Cuts cuts;
    if (!characters.empty()) cuts.push_back(characters.size());
    for (const Rule& rule : rules_) {
        Cuts finer;
        size_t begin = 0;
        try {
            for (const size_t end : cuts) {
                cut(rule.regex, characters, begin, end, &steps, &finer);
                begin = end;
            }
        } catch (const std::runtime_error&) {
            throw ModelError("the pre-tokenizer's expression " + rule.expression +
                             " takes too many steps on a text of " + std::to_string(characters.size()) +
                             " characters: convert the model anew");
        }
        cuts = rule.in_threes ? in_threes(rule.digits, characters, finer) : std::move(finer);
    }

    std::vector<std::string_view> pieces;
    pieces.reserve(cuts.size());
    size_t begin = 0;
    for (const size_t end : cuts) {
        pieces.push_back(text.substr(offsets[begin], offsets[end] - offsets[begin]));
        begin = end;
    }
    return pieces;
}

}  // namespace edgellm
