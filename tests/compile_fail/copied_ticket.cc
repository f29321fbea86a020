// A ticket is one right: it moves and is not copied.
// Expected error: use of deleted function 'strata::tiers::Ticket::Ticket\(const
#include "tiers/lease.h"

using strata::tiers::Ticket;

Ticket second_of(Ticket& ticket) {
#ifdef STRATA_MISUSE
  return Ticket(ticket);
#else
  return Ticket(std::move(ticket));
#endif
}
