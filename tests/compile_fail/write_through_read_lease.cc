// What was read is shared by its readers: nobody writes it.
// Expected error: assignment of read-only location
#include "tiers/lease.h"

using strata::tiers::FillLease;
using strata::tiers::ReadLease;

void clear(const ReadLease& read, const FillLease& fill) {
#ifdef STRATA_MISUSE
  (void)fill;
  read.bytes()[0] = std::byte{0};
#else
  fill.bytes()[0] = read.bytes()[0];
#endif
}
