// tools/makers/ledger_text.h - a long made-up text of any length: the ledger of a cellar.
// Why: long prompts of the golden tests are made, not stored, and belong to nobody. Its end can be
// continued only by what stood far back, so that logits there depend on the whole context.
#pragma once

#include <cstdint>
#include <string>

namespace strata::makers {

/// `n_entries` lines that each give a barrel's number, contents, litres, origin and place, with now
/// and then a line that repeats an earlier one; then a count that names barrels from the text's
/// first tenth, its middle and its last third, and breaks off before the last one's contents. The
/// same text for the same n_entries everywhere. About 38 tokens an entry. n_entries >= 10.
std::string ledger_text(uint32_t n_entries);

}  // namespace strata::makers
