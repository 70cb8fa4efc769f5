// SPDX-License-Identifier: MIT
// Keys `edgellm.embedded.*` of a file: what Python knows of a model and a device without Python needs.
// edgellm/convert/embedded.py writes them and says what each holds.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/file.h"
#include "text/tokenizer.h"

namespace edgellm {

// The program's text. Throws ModelError, which says how to store it, if the file holds none.
std::string_view embedded_program(const GgufFile& file);

struct EmbeddedTokenizer {
    TokenizerSpec spec;
    std::vector<int32_t> ends;  // tokens that end an answer
    int32_t begin = -1;         // the token that begins a text, if the model wants one
};
EmbeddedTokenizer embedded_tokenizer(const GgufFile& file, size_t n_tokens);

// A chat template as the texts between the contents of messages.
class ChatFrames {
  public:
    explicit ChatFrames(const GgufFile& file);

    struct Message {
        std::string_view role, text;
    };
    // Parts of the prompt, up to the begin of the next answer; a message's own words are not trusted. Throws
    // ModelError where the template cannot do it.
    std::vector<Tokenizer::Segment> prompt(const std::vector<Message>& messages) const;

  private:
    const std::string& between(std::string_view role, std::string_view next) const;

    std::string reason_;  // why there are none; empty if there are
    std::map<std::pair<std::string, std::string>, std::string> texts_;
    std::set<std::string, std::less<>> trimmed_;  // roles whose contents lose white space at both ends
};

}  // namespace edgellm
