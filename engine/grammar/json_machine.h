// engine/grammar/json_machine.h - which bytes may follow in JSON of a grammar: a pushdown machine
// whose state is a set of stacks, because anyOf may be undecided for a while.
// Every stack can be completed: no value is begun that would nest deeper than kGrammarFramesMax,
// and what is required is always flat enough to come.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/grammar/json_grammar.h"

namespace strata::engine {

/// A value under way, or the key of one.
struct GrammarFrame {
  uint32_t node = 0;
  uint32_t phase = 0;
  uint32_t count = 0;   // bytes, code points, digits, items or properties, as its node counts
  uint32_t spaces = 0;  // of the white space that it stands in
  bool operator==(const GrammarFrame&) const = default;
};

using GrammarStack = std::vector<GrammarFrame>;  // the outermost value first

GrammarStack first_stack(const JsonGrammar& grammar);
/// Appends every stack that `byte` leads to.
void step_stack(const JsonGrammar& grammar, const GrammarStack& stack, uint8_t byte,
                std::vector<GrammarStack>& out);
/// The text may end here.
bool may_end(const JsonGrammar& grammar, const GrammarStack& stack);

}  // namespace strata::engine
