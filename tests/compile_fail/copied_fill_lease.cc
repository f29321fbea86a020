// A frame is filled by one holder: its lease moves and is not copied.
// Expected error: use of deleted function 'strata::tiers::FillLease::FillLease\(const
#include "tiers/lease.h"

using strata::tiers::FillLease;

FillLease second_of(FillLease& lease) {
#ifdef STRATA_MISUSE
  return FillLease(lease);
#else
  return FillLease(std::move(lease));
#endif
}
