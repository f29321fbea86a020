// Who ignores a ticket never learns how the transfer ended: dropping one is said aloud.
// Expected error: ignoring returned value of type 'strata::tiers::Ticket'
#include "tiers/transfer_queue.h"

using strata::tiers::FillLease;
using strata::tiers::IoFile;
using strata::tiers::TransferQueue;

void write(TransferQueue& queue, FillLease& fill) {
#ifdef STRATA_MISUSE
  queue.write(std::move(fill), IoFile{}, 0, 4096);
#else
  (void)queue.write(std::move(fill), IoFile{}, 0, 4096);
#endif
}
