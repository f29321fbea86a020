// The status of a transfer is where its failure is told.
// Expected error: ignoring return value of 'strata::tiers::IoStatus
#include "tiers/transfer_queue.h"

using strata::tiers::IoStatus;
using strata::tiers::Ticket;
using strata::tiers::TransferQueue;

bool write_ended_well(TransferQueue& queue, Ticket& ticket) {
#ifdef STRATA_MISUSE
  queue.take_write(std::move(ticket));
  return true;
#else
  return queue.take_write(std::move(ticket)) == IoStatus::kOk;
#endif
}
