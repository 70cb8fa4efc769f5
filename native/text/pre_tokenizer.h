// SPDX-License-Identifier: MIT
// Cuts text into the pieces that byte-pair merging works on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/char_set.h"
#include "text/regex.h"

namespace edgellm {

// One rule: matches become pieces, and so does the text between them. With a category, pieces of more than
// three characters, all of it, are cut into groups of three, counted from the end.
struct PreTokenizerRule {
    std::string expression;
    std::string category;  // of Unicode, or empty
};

class PreTokenizer {
  public:
    // Throws ModelError for an expression that cannot be used.
    explicit PreTokenizer(const std::vector<PreTokenizerRule>& rules);

    // Pieces of `text` in order; together they are the text. Each rule works on the pieces that the one
    // before left. Throws ModelError if an expression takes too many steps.
    std::vector<std::string_view> split(std::string_view text) const;

  private:
    struct Rule {
        std::string expression;
        Regex regex;
        bool in_threes;
        CharSet digits;
    };

    std::vector<Rule> rules_;
};

}  // namespace edgellm
