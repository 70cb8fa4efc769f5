// SPDX-License-Identifier: MIT
#include "text/regex.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "text/regex_parser.h"

namespace edgellm {

// One attempt to match at one place, and the ways that it has left untried.
class Matcher {
  public:
    Matcher(const Regex& regex, std::u32string_view text, uint64_t* steps)
        : program_(regex.program_), sets_(regex.sets_), word_(regex.word_), text_(text), steps_(steps) {}

    // Matches from `pc` and `position` on; the place behind the match in *end.
    bool run(size_t pc, size_t position, size_t* end) {
        const size_t bottom = untried_.size();
        while (true) {
            if (*steps_ == 0) throw std::runtime_error("too many steps");
            --*steps_;
            const Regex::Instruction& i = program_[pc];
            if (i.op == Regex::Op::kMatch) {
                untried_.resize(bottom);
                *end = position;
                return true;
            }
            if (!step(i, &pc, &position)) {
                if (untried_.size() == bottom) return false;
                Untried& last = untried_.back();
                pc = last.pc;
                position = last.position;
                // A loop gives its characters back, or takes more, one by one.
                if (last.position == last.limit)
                    untried_.pop_back();
                else
                    last.position += last.limit < last.position ? size_t(-1) : size_t{1};
            }
        }
    }

  private:
    // A place to go on from: `position`, and all others up to `limit`.
    struct Untried {
        size_t pc, position, limit;
    };

    bool step(const Regex::Instruction& i, size_t* pc, size_t* position) {
        using Op = Regex::Op;
        const size_t at = *position;
        const auto jump = [](size_t from, int32_t by) { return from + static_cast<size_t>(int64_t{by}); };
        switch (i.op) {
            case Op::kSet:
                if (at >= text_.size() || !sets_[static_cast<size_t>(i.x)].has(text_[at])) return false;
                ++*position;
                break;
            case Op::kLoop:
                if (!loop(i, *pc, position)) return false;
                break;
            case Op::kSplit: {
                const size_t other = jump(*pc, i.y);
                untried_.push_back({other, at, at});
                *pc = jump(*pc, i.x);
                return true;
            }
            case Op::kJump:
                *pc = jump(*pc, i.x);
                return true;
            case Op::kAhead:
            case Op::kBehind: {
                const size_t back = i.op == Op::kBehind ? i.min : 0;
                size_t end;
                const bool matches = at >= back && run(*pc + 1, at - back, &end);
                if (matches == i.negative) return false;
                *pc += static_cast<size_t>(i.x);
                break;
            }
            case Op::kAtomic:
                if (!run(*pc + 1, at, position)) return false;
                *pc += static_cast<size_t>(i.x);
                break;
            default:
                if (!anchored(i, at)) return false;
        }
        ++*pc;
        return true;
    }

    bool loop(const Regex::Instruction& i, size_t pc, size_t* position) {
        const CharSet& set = sets_[static_cast<size_t>(i.x)];
        const size_t begin = *position;
        const size_t most = std::min<size_t>(i.max, text_.size() - begin);
        size_t n = 0;
        while (n < most && set.has(text_[begin + n])) ++n;
        *steps_ -= std::min<uint64_t>(*steps_, n / 16);
        if (n < i.min) return false;
        if (i.mode == Regex::Mode::kLazy) {
            if (n > i.min) untried_.push_back({pc + 1, begin + i.min + 1, begin + n});
            *position = begin + i.min;
            return true;
        }
        if (i.mode == Regex::Mode::kGreedy && n > i.min)
            untried_.push_back({pc + 1, begin + n - 1, begin + i.min});
        *position = begin + n;
        return true;
    }

    bool anchored(const Regex::Instruction& i, size_t at) const {
        using Op = Regex::Op;
        const size_t n = text_.size();
        switch (i.op) {
            case Op::kLineBegin:
                return at == 0 || (text_[at - 1] == U'\n' && at < n);
            case Op::kLineEnd:
                return at == n || text_[at] == U'\n';
            case Op::kTextBegin:
                return at == 0;
            case Op::kTextEnd:
                return at == n;
            case Op::kTextEndOrNewline:
                return at == n || (at + 1 == n && text_[at] == U'\n');
            default: {
                const bool before = at > 0 && word_.has(text_[at - 1]),
                           after = at < n && word_.has(text_[at]);
                return (before != after) != i.negative;
            }
        }
    }

    const std::vector<Regex::Instruction>& program_;
    const std::vector<CharSet>& sets_;
    const CharSet& word_;
    std::u32string_view text_;
    uint64_t* steps_;
    std::vector<Untried> untried_;
};

Regex::Regex(std::string_view expression) : word_(*CharSet::named("word")) {
    RegexParser parser(expression);
    program_ = std::move(parser.program);
    sets_ = std::move(parser.sets);
}

bool Regex::find(std::u32string_view text, size_t start, uint64_t* steps, Match* found) const {
    Matcher matcher(*this, text, steps);
    for (size_t begin = start; begin <= text.size(); ++begin) {
        size_t end;
        if (matcher.run(0, begin, &end)) {
            *found = {begin, end};
            return true;
        }
    }
    return false;
}

}  // namespace edgellm
