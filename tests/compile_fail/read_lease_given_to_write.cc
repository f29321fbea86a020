// A write takes over a frame that its holder alone could fill.
// Expected error: cannot convert 'std::remove_reference<strata::tiers::ReadLease&>
#include "tiers/transfer_queue.h"

using strata::tiers::FillLease;
using strata::tiers::IoFile;
using strata::tiers::ReadLease;
using strata::tiers::Ticket;
using strata::tiers::TransferQueue;

Ticket write(TransferQueue& queue, ReadLease& read, FillLease& fill) {
#ifdef STRATA_MISUSE
  (void)fill;
  return queue.write(std::move(read), IoFile{}, 0, 4096);
#else
  (void)read;
  return queue.write(std::move(fill), IoFile{}, 0, 4096);
#endif
}
