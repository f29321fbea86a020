// A read lease is one reader: it moves and is not copied.
// Expected error: use of deleted function 'strata::tiers::ReadLease::ReadLease\(const
#include "tiers/lease.h"

using strata::tiers::ReadLease;

ReadLease second_of(ReadLease& lease) {
#ifdef STRATA_MISUSE
  return ReadLease(lease);
#else
  return ReadLease(std::move(lease));
#endif
}
