// tools/makers/zoo.h - the zoo: a random model of a few hundred KB for each architecture, kind of
// layer and RoPE scaling that Strata runs.
// Why: every architecture is checked against the double-precision reference (tests/oracle) on a
// machine that has no real models.
#pragma once

#include <span>
#include <string>

#include "tools/makers/random_transformer.h"

namespace strata::makers {

struct ZooMember {
  std::string shows;        // what this member has that others have not
  RandomTransformer model;  // model.name names the member and its file
};

/// Every member.
std::span<const ZooMember> zoo();
/// The member of a name; a name nobody has is a bug.
const ZooMember& zoo_member(const std::string& name);

}  // namespace strata::makers
