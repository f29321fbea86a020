// engine/grammar/json_machine.h - which bytes may follow in JSON of a grammar: a pushdown machine
// whose state is a set of stacks, because anyOf may be undecided for a while.
// Every stack can be completed: no value is begun that would nest deeper than kGrammarFramesMax,
// and what is required is always flat enough to come.
#pragma once

#include <compare>
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
  auto operator<=>(const GrammarFrame&) const = default;
};

using GrammarStack = std::vector<GrammarFrame>;  // the outermost value first

GrammarStack first_stack(const JsonGrammar& grammar);
/// Appends every stack that `byte` leads to.
void step_stack(const JsonGrammar& grammar, const GrammarStack& stack, uint8_t byte,
                std::vector<GrammarStack>& out);
/// A stack that goes on as this one does for `n_bytes` at least, and the same one for all those
/// of a string that reaches neither of its bounds in them.
GrammarStack clipped(const JsonGrammar& grammar, GrammarStack stack, uint32_t n_bytes);
/// The text may end here.
bool may_end(const JsonGrammar& grammar, const GrammarStack& stack);

}  // namespace strata::engine
