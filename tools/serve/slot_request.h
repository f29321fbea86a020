// tools/serve/slot_request.h - llama.cpp's POST /slots/{id}: what is asked, and what is said of it.
// Pure functions of their arguments.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "tools/serve/answer_service.h"
#include "tools/serve/api_request.h"

namespace strata::serve {

/// {"filename"} to save and restore; erasing takes any body, or none. `slot` has at most nine
/// digits. Errors: kUsage (no such action; a name that no session can have), kBadText.
SlotAction parse_slot_action(std::string_view slot, std::string_view action, std::string_view body);

/// As llama.cpp says it.
nlohmann::ordered_json slot_action_json(const SlotAction& action, const SlotOutcome& outcome,
                                        double ms);
/// Why nothing was done, where `outcome` is not kDone.
ApiError slot_refusal(const SlotAction& action, const SlotOutcome& outcome);

}  // namespace strata::serve
