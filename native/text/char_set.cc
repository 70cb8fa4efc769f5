// SPDX-License-Identifier: MIT
#include "text/char_set.h"

#include <algorithm>
#include <span>

#include "text/unicode_tables.h"

namespace edgellm {
namespace {

using namespace unicode;

constexpr char32_t kLast = 0x10ffff;

struct Named {
    std::string_view name;
    std::span<const uint32_t> bounds;  // of runs: first character, and the one behind the last
};

constexpr Named kScripts[] = {
    {"space", kSpace},       {"word", kWord},     {"Han", kHan},       {"Hiragana", kHiragana},
    {"Katakana", kKatakana}, {"Hangul", kHangul}, {"Arabic", kArabic}, {"Cyrillic", kCyrillic},
    {"Greek", kGreek},       {"Latin", kLatin},   {"Thai", kThai},
};

// Names of the enumerators of Category, in their order.
constexpr std::string_view kCategories[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                            "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                            "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

}  // namespace

std::optional<CharSet> CharSet::named(std::string_view name) {
    CharSet set;
    for (const Named& script : kScripts) {
        if (script.name != name) continue;
        for (size_t i = 0; i < script.bounds.size(); i += 2)
            set.runs_.emplace_back(script.bounds[i], script.bounds[i + 1] - 1);
        set.settle();
        return set;
    }
    uint32_t wanted = 0;  // bit of each category
    for (size_t i = 0; i < std::size(kCategories); ++i) {
        if (!name.empty() && kCategories[i].starts_with(name)) wanted |= uint32_t{1} << i;
    }
    if (wanted == 0) return std::nullopt;
    const std::span<const uint32_t> runs = kCategoryRuns;
    for (size_t i = 0; i < runs.size(); ++i) {
        if ((wanted >> (runs[i] & 31) & 1) == 0) continue;
        const char32_t last = i + 1 < runs.size() ? (runs[i + 1] >> 5) - 1 : kLast;
        set.runs_.emplace_back(runs[i] >> 5, last);
    }
    set.settle();
    return set;
}

void CharSet::add(char32_t first, char32_t last) {
    runs_.emplace_back(first, last);
    settle();
}

void CharSet::add(const CharSet& other) {
    runs_.insert(runs_.end(), other.runs_.begin(), other.runs_.end());
    settle();
}

void CharSet::invert() {
    std::vector<Run> gaps;
    char32_t next = 0;
    for (const Run& run : runs_) {
        if (run.first > next) gaps.emplace_back(next, run.first - 1);
        next = run.second + 1;
    }
    if (next <= kLast) gaps.emplace_back(next, kLast);
    runs_ = std::move(gaps);
    settle();
}

void CharSet::intersect(const CharSet& other) {
    CharSet outside = other;
    outside.invert();
    invert();
    add(outside);
    invert();
}

void CharSet::ignore_case() {
    for (char32_t lower = 'a'; lower <= 'z'; ++lower) {
        const char32_t upper = lower - 'a' + 'A';
        if (!has(lower) && !has(upper)) continue;
        add(lower, lower);
        add(upper, upper);
        if (lower == 's') add(0x17f, 0x17f);
        if (lower == 'k') add(0x212a, 0x212a);
    }
}

void CharSet::settle() {
    std::sort(runs_.begin(), runs_.end());
    std::vector<Run> merged;
    for (const Run& run : runs_) {
        if (!merged.empty() && run.first <= merged.back().second + 1)
            merged.back().second = std::max(merged.back().second, run.second);
        else
            merged.push_back(run);
    }
    runs_ = std::move(merged);
    latin_ = {};
    for (char32_t c = 0; c < 256; ++c) latin_[c / 64] |= uint64_t{has_beyond(c)} << (c % 64);
}

bool CharSet::has_beyond(char32_t c) const {
    const auto after = std::upper_bound(runs_.begin(), runs_.end(), c,
                                        [](char32_t value, const Run& run) { return value < run.first; });
    return after != runs_.begin() && c <= std::prev(after)->second;
}

}  // namespace edgellm
