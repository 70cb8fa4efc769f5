// SPDX-License-Identifier: MIT
#include "text/regex_parser.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>

#include "text/utf8.h"

namespace edgellm {
namespace {

using Op = Regex::Op;
using Mode = Regex::Mode;

constexpr uint32_t kUnbounded = UINT32_MAX;
constexpr uint32_t kMostRepeats = 1000;
constexpr size_t kMostInstructions = 100'000;
constexpr size_t kMostNested = 100;

bool is_digit(char32_t c) {
    return c >= '0' && c <= '9';
}

CharSet set_of(char32_t c) {
    CharSet set;
    set.add(c, c);
    return set;
}

}  // namespace

RegexParser::RegexParser(std::string_view expression) : text_(decode_utf8(expression)) {
    Part whole = alternatives();
    if (!at_end()) refuse("an unmatched )");
    whole.code.push_back({Op::kMatch});
    program = std::move(whole.code);
}

char32_t RegexParser::peek(size_t ahead) const {
    return position_ + ahead < text_.size() ? text_[position_ + ahead] : U'\0';
}

bool RegexParser::take(std::u32string_view token) {
    if (!std::u32string_view(text_).substr(std::min(position_, text_.size())).starts_with(token))
        return false;
    position_ += token.size();
    return true;
}

char32_t RegexParser::next() {
    if (at_end()) refuse("an end too early");
    return text_[position_++];
}

void RegexParser::refuse(const std::string& what) const {
    throw std::invalid_argument("it has " + what + " at character " + std::to_string(position_));
}

void RegexParser::append(Part* to, const Part& part) {
    to->code.insert(to->code.end(), part.code.begin(), part.code.end());
    to->shortest += part.shortest;
    to->fixed = to->fixed && part.fixed;
}

RegexParser::Part RegexParser::alternatives() {
    if (++depth_ > kMostNested) refuse("groups nested too deeply");
    const bool outer_case = ignore_case_;
    Part result = sequence();
    if (peek() == U'|' && !at_end()) {
        ++position_;
        const Part rest = alternatives();
        const auto first = static_cast<int32_t>(result.code.size()),
                   second = static_cast<int32_t>(rest.code.size());
        Part both;
        both.code.push_back({.op = Op::kSplit, .x = 1, .y = first + 2});
        both.code.insert(both.code.end(), result.code.begin(), result.code.end());
        both.code.push_back({.op = Op::kJump, .x = second + 1});
        both.code.insert(both.code.end(), rest.code.begin(), rest.code.end());
        both.shortest = std::min(result.shortest, rest.shortest);
        both.fixed = result.fixed && rest.fixed && result.shortest == rest.shortest;
        result = std::move(both);
    }
    ignore_case_ = outer_case;
    --depth_;
    return result;
}

RegexParser::Part RegexParser::sequence() {
    Part result;
    while (!at_end() && peek() != U'|' && peek() != U')') {
        append(&result, repeated());
        if (result.code.size() > kMostInstructions) refuse("too many parts");
    }
    return result;
}

RegexParser::Part RegexParser::repeated() {
    Part part = atom();
    uint32_t min, max;
    Mode mode;
    while (quantifier(&min, &max, &mode)) part = repeat(std::move(part), min, max, mode);
    return part;
}

bool RegexParser::quantifier(uint32_t* min, uint32_t* max, Mode* mode) {
    bool is_interval = false;
    if (take(U"*")) {
        *min = 0, *max = kUnbounded;
    } else if (take(U"+")) {
        *min = 1, *max = kUnbounded;
    } else if (take(U"?")) {
        *min = 0, *max = 1;
    } else if (peek() == U'{' && interval(min, max)) {
        is_interval = true;
    } else {
        return false;
    }
    *mode = Mode::kGreedy;
    if (is_interval) {
        // In Ruby's syntax {n}? is an optional {n}, and {n,m}+ a repeated {n,m}.
        if (*min != *max && take(U"?")) *mode = Mode::kLazy;
    } else if (take(U"?")) {
        *mode = Mode::kLazy;
    } else if (take(U"+")) {
        *mode = Mode::kPossessive;
    }
    return true;
}

bool RegexParser::interval(uint32_t* min, uint32_t* max) {
    const size_t begin = position_;
    const auto number = [this]() -> std::optional<uint32_t> {
        if (!is_digit(peek())) return std::nullopt;
        uint32_t value = 0;
        while (is_digit(peek())) {
            value = value * 10 + static_cast<uint32_t>(next() - U'0');
            if (value > kMostRepeats) refuse("a repetition of more than 1000");
        }
        return value;
    };
    ++position_;
    const auto low = number();
    const bool comma = take(U",");
    const auto high = comma ? number() : low;
    if (!take(U"}") || (!low && !high)) {  // a literal brace
        position_ = begin;
        return false;
    }
    *min = low.value_or(0);
    *max = high.value_or(kUnbounded);
    if (*min > *max) refuse("a repetition whose bounds are in the wrong order");
    return true;
}

RegexParser::Part RegexParser::repeat(Part part, uint32_t min, uint32_t max, Mode mode) {
    Part result;
    result.shortest = part.shortest * min;
    result.fixed = part.fixed && min == max;
    if (part.code.size() == 1 && part.code[0].op == Op::kSet) {
        result.code.push_back({.op = Op::kLoop, .mode = mode, .x = part.code[0].x, .min = min, .max = max});
        return result;
    }
    if (max == kUnbounded && part.shortest == 0) refuse("a repetition of something that may be empty");
    const size_t copies = max == kUnbounded ? min + 1 : max;
    if (copies * (part.code.size() + 2) > kMostInstructions) refuse("too many parts");
    for (uint32_t i = 0; i < min; ++i)
        result.code.insert(result.code.end(), part.code.begin(), part.code.end());
    const auto length = static_cast<int32_t>(part.code.size());
    const auto split = [&](int32_t over) {
        Regex::Instruction s{.op = Op::kSplit, .x = 1, .y = over};
        if (mode == Mode::kLazy) std::swap(s.x, s.y);
        result.code.push_back(s);
        result.code.insert(result.code.end(), part.code.begin(), part.code.end());
    };
    if (max == kUnbounded) {
        split(length + 2);
        result.code.push_back({.op = Op::kJump, .x = -length - 1});
    } else {
        for (uint32_t i = min; i < max; ++i) split(static_cast<int32_t>(max - i) * (length + 1));
    }
    if (mode == Mode::kPossessive) {
        result.code.push_back({Op::kMatch});
        result.code.insert(result.code.begin(),
                           {.op = Op::kAtomic, .x = static_cast<int32_t>(result.code.size())});
    }
    return result;
}

RegexParser::Part RegexParser::atom() {
    const char32_t c = next();
    switch (c) {
        case U'(':
            return group();
        case U'[':
            return of_set(bracket());
        case U'\\':
            return escape();
        case U'.': {
            CharSet set = set_of(U'\n');
            set.invert();
            return of_set(std::move(set));
        }
        case U'^':
            return of_anchor(Op::kLineBegin);
        case U'$':
            return of_anchor(Op::kLineEnd);
        case U'*':
        case U'+':
        case U'?':
            refuse("a repetition of nothing");
        default: {
            CharSet set = set_of(c);
            if (ignore_case_) {
                if (c >= 128) refuse("a character beyond ASCII where case is ignored");
                set.ignore_case();
            }
            return of_set(std::move(set));
        }
    }
}

RegexParser::Part RegexParser::group() {
    Part part;
    if (take(U"?=")) return look(false, false);
    if (take(U"?!")) return look(false, true);
    if (take(U"?<=")) return look(true, false);
    if (take(U"?<!")) return look(true, true);
    if (take(U"?>")) {
        part = alternatives();
        part.code.push_back({Op::kMatch});
        part.code.insert(part.code.begin(), {.op = Op::kAtomic, .x = static_cast<int32_t>(part.code.size())});
    } else if (take(U"?i:") || take(U"?i)")) {
        const bool rest = text_[position_ - 1] == U')';
        const bool outer = ignore_case_;
        ignore_case_ = true;
        if (rest) return {};  // up to the end of the group around it
        part = alternatives();
        ignore_case_ = outer;
    } else if (take(U"?:") || peek() != U'?') {
        part = alternatives();
    } else {
        refuse("a group that is not supported");
    }
    if (!take(U")")) refuse("a group without its )");
    return part;
}

RegexParser::Part RegexParser::look(bool behind, bool negative) {
    Part body = alternatives();
    if (!take(U")")) refuse("a group without its )");
    if (behind && !body.fixed) refuse("a look-behind of no fixed length");
    body.code.push_back({Op::kMatch});
    Part part;
    part.code.push_back({.op = behind ? Op::kBehind : Op::kAhead,
                         .negative = negative,
                         .x = static_cast<int32_t>(body.code.size()),
                         .min = static_cast<uint32_t>(body.shortest)});
    part.code.insert(part.code.end(), body.code.begin(), body.code.end());
    return part;
}

RegexParser::Part RegexParser::escape() {
    if (take(U"b")) return of_anchor(Op::kWordBorder);
    if (take(U"B")) return of_anchor(Op::kWordBorder, true);
    if (take(U"A")) return of_anchor(Op::kTextBegin);
    if (take(U"z")) return of_anchor(Op::kTextEnd);
    if (take(U"Z")) return of_anchor(Op::kTextEndOrNewline);
    char32_t c;
    CharSet set;
    if (!escaped(&c, &set)) {
        set = set_of(c);
        if (ignore_case_) set.ignore_case();
    }
    return of_set(std::move(set));
}

bool RegexParser::escaped(char32_t* character, CharSet* set) {
    const char32_t c = next();
    constexpr std::pair<char32_t, std::string_view> kClasses[] = {
        {U's', "space"}, {U'd', "Nd"}, {U'w', "word"}};
    for (const auto& [letter, name] : kClasses) {
        if (c != letter && c != letter - U'a' + U'A') continue;
        *set = *CharSet::named(name);
        if (c != letter) set->invert();
        return true;
    }
    constexpr std::pair<char32_t, char32_t> kControls[] = {{U'n', U'\n'},  {U'r', U'\r'}, {U't', U'\t'},
                                                           {U'f', U'\f'},  {U'v', U'\v'}, {U'a', U'\a'},
                                                           {U'e', U'\x1b'}};
    for (const auto& [letter, control] : kControls) {
        if (c != letter) continue;
        *character = control;
        return false;
    }
    if (c == U'p' || c == U'P') {
        *set = property(c == U'P');
        return true;
    }
    if (c == U'x' && take(U"{")) {
        *character = hexadecimal(1, 6);
        if (!take(U"}")) refuse("a character number without its }");
    } else if (c == U'x') {
        *character = hexadecimal(1, 2);
    } else if (c == U'u') {
        *character = hexadecimal(4, 4);
    } else if (c < 128 && (is_digit(c) || (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z'))) {
        refuse("an escape that is not supported");
    } else {
        *character = c;
    }
    return false;
}

char32_t RegexParser::hexadecimal(size_t least, size_t most) {
    constexpr std::u32string_view kDigits = U"0123456789abcdef";
    char32_t value = 0;
    size_t n = 0;
    for (; n < most; ++n) {
        const char32_t c = peek();
        const size_t digit = kDigits.find(c >= U'A' && c <= U'F' ? c - U'A' + U'a' : c);
        if (digit == std::u32string_view::npos) break;
        value = value * 16 + static_cast<char32_t>(digit);
        ++position_;
    }
    if (n < least || value > 0x10ffff) refuse("a character number that is none");
    return value;
}

CharSet RegexParser::property(bool negative) {
    if (!take(U"{")) refuse("a property without its {");
    if (take(U"^")) negative = !negative;
    std::string name;
    for (char32_t c = next(); c != U'}'; c = next()) name += c < 128 ? static_cast<char>(c) : '?';
    std::optional<CharSet> set = CharSet::named(name);
    if (!set) refuse("the property " + name.substr(0, 80) + ", which is not supported,");
    if (negative) set->invert();
    return *std::move(set);
}

CharSet RegexParser::bracket() {
    if (++depth_ > kMostNested) refuse("classes nested too deeply");
    const bool negative = take(U"^");
    CharSet set;
    std::optional<CharSet> left;  // of &&
    bool first = true;
    while (first || peek() != U']') {
        if (take(U"&&")) {
            if (left) set.intersect(*left);
            left = std::exchange(set, CharSet());
            first = false;
            continue;
        }
        char32_t c = next();
        first = false;
        if (c == U'[') {
            if (peek() == U':') refuse("a POSIX class, which is not supported,");
            set.add(bracket());
            continue;
        }
        CharSet escaped_set;
        if (c == U'\\' && escaped(&c, &escaped_set)) {
            set.add(escaped_set);
            continue;
        }
        char32_t last = c;
        if (peek() == U'-' && peek(1) != U']' && peek(1) != U'[') {
            ++position_;
            last = next();
            if (last == U'\\' && escaped(&last, &escaped_set)) refuse("a range that ends with a class");
            if (last < c) refuse("a range whose ends are in the wrong order");
        }
        set.add(c, last);
    }
    ++position_;
    if (left) set.intersect(*left);
    if (ignore_case_) set.ignore_case();
    if (negative) set.invert();
    --depth_;
    return set;
}

RegexParser::Part RegexParser::of_set(CharSet set) {
    Part part;
    part.code.push_back({.op = Op::kSet, .x = static_cast<int32_t>(sets.size())});
    part.shortest = 1;
    sets.push_back(std::move(set));
    return part;
}

RegexParser::Part RegexParser::of_anchor(Op op, bool negative) {
    Part part;
    part.code.push_back({.op = op, .negative = negative});
    return part;
}

}  // namespace edgellm
