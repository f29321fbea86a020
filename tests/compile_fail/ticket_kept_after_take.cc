// Taking a transfer consumes its ticket, and the caller says so.
// Expected error: cannot bind rvalue reference of type 'strata::tiers::Ticket&&' to lvalue
#include "tiers/transfer_queue.h"

using strata::tiers::IoStatus;
using strata::tiers::Ticket;
using strata::tiers::TransferQueue;

IoStatus take(TransferQueue& queue, Ticket& ticket) {
#ifdef STRATA_MISUSE
  return queue.take_write(ticket);
#else
  return queue.take_write(std::move(ticket));
#endif
}
