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
  // Sent behind them so many times, or until the server says something.
  std::string tail;
  uint64_t n_tails = 0;
  // kHalfClose: the client says that no more comes, and reads until the server ends it. kReset: it
  // goes without a word.
  End end = End::kHalfClose;
};

/// A body that no server takes whole.
inline constexpr uint64_t kGigabyte = uint64_t{1} << 30;

/// The case of this number: the same for the same seed. Kinds come in turn. At most a few MiB; in
/// one case of some hundred, of a kind of its own, tails make it a gigabyte.
HostileCase hostile_case(uint64_t seed, uint64_t number);

/// How many kinds there are: so many cases in a row have every one.
size_t n_hostile_kinds();

}  // namespace strata::soak
