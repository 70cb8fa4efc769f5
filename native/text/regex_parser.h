// SPDX-License-Identifier: MIT
// From the text of an expression to the instructions of Regex.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/char_set.h"
#include "text/regex.h"

namespace edgellm {

class RegexParser {
  public:
    // Throws std::invalid_argument as Regex does.
    explicit RegexParser(std::string_view expression);

    std::vector<Regex::Instruction> program;
    std::vector<CharSet> sets;

  private:
    // A part of the expression. Its jumps are relative, so that parts are joined by putting one after
    // another.
    struct Part {
        std::vector<Regex::Instruction> code;
        size_t shortest = 0;  // characters that it matches at least
        bool fixed = true;    // it matches no other number
    };

    bool at_end() const { return position_ >= text_.size(); }
    char32_t peek(size_t ahead = 0) const;
    bool take(std::u32string_view token);
    char32_t next();
    [[noreturn]] void refuse(const std::string& what) const;

    Part alternatives();
    Part sequence();
    Part repeated();
    Part atom();
    Part group();
    Part look(bool behind, bool negative);
    Part escape();
    Part of_set(CharSet set);
    Part of_anchor(Regex::Op op, bool negative = false);
    bool quantifier(uint32_t* min, uint32_t* max, Regex::Mode* mode);
    bool interval(uint32_t* min, uint32_t* max);
    Part repeat(Part part, uint32_t min, uint32_t max, Regex::Mode mode);
    CharSet bracket();
    // The character of an escape after its backslash, or the set of one, in *set (then true).
    bool escaped(char32_t* character, CharSet* set);
    char32_t hexadecimal(size_t least, size_t most);
    CharSet property(bool negative);
    static void append(Part* to, const Part& part);

    std::u32string text_;
    size_t position_ = 0;
    bool ignore_case_ = false;
    size_t depth_ = 0;
};

}  // namespace edgellm
