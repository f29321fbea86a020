// tools/soak/hostile_case.h - what a broken or hostile client sends: drawn from a seed, of every
// kind that the server's page of limits names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::soak {

struct HostileCase {
  enum class End : uint8_t { kHalfClose, kReset };
  std::string_view kind;
  std::string bytes;
  // kHalfClose: the client says that no more comes, and reads until the server ends it. kReset: it
  // goes without a word.
  End end = End::kHalfClose;
};

/// The case of this number: the same for the same seed. Kinds come in turn. At most a few MiB.
HostileCase hostile_case(uint64_t seed, uint64_t number);

/// How many kinds there are: so many cases in a row have every one.
size_t n_hostile_kinds();

}  // namespace strata::soak
