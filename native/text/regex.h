// SPDX-License-Identifier: MIT
// Regular expressions of pre-tokenizers, in the syntax and with the meaning of Oniguruma's Ruby mode, which
// the `tokenizers` library uses.
//
// The subset: literals, escapes, classes with ranges, nesting and &&, \p{category or script}, groups,
// alternation, greedy, lazy and possessive repetition, (?i:), look-ahead, look-behind of a fixed length,
// anchors. Everything else is refused. Matching backtracks, within a bound on its steps.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/char_set.h"

namespace edgellm {

class Regex {
  public:
    struct Match {
        size_t begin, end;
    };

    // Throws std::invalid_argument, with what is wrong, for an expression that is malformed or not supported.
    explicit Regex(std::string_view expression);

    // The first match from `start` on, in `found`; false if there is none. *steps is counted down; throws
    // std::runtime_error once it is used up.
    bool find(std::u32string_view text, size_t start, uint64_t* steps, Match* found) const;

    enum class Op : uint8_t {
        kSet,     // one character of the set
        kLoop,    // min to max characters of the set
        kSplit,   // goes on at x; at y if that fails
        kJump,    // goes on at x
        kAhead,   // the body of x instructions, ended by kMatch, matches here (not: negative)
        kBehind,  // it matches the `min` characters before
        kAtomic,  // it matches here, in its first way only
        kLineBegin,
        kLineEnd,
        kTextBegin,
        kTextEnd,
        kTextEndOrNewline,
        kWordBorder,  // or not, negative
        kMatch,
    };
    enum class Mode : uint8_t { kGreedy, kLazy, kPossessive };

    struct Instruction {
        Op op;
        Mode mode = Mode::kGreedy;
        bool negative = false;
        int32_t x = 0, y = 0;  // set; or jumps, relative; or the length of a body
        uint32_t min = 0, max = 0;
    };

  private:
    friend class Matcher;
    std::vector<Instruction> program_;
    std::vector<CharSet> sets_;
    CharSet word_;
};

}  // namespace edgellm
