#include "tools/serve/slot_request.h"

#include <fmt/format.h>

#include <charconv>

#include "base/check.h"
#include "base/error.h"
#include "tiers/session_manifest.h"
#include "tools/serve/json_body.h"

namespace strata::serve {
namespace {

using Json = nlohmann::ordered_json;
using Kind = SlotAction::Kind;

Kind kind_of(std::string_view action) {
  if (action == "save") return Kind::kSave;
  if (action == "restore") return Kind::kRestore;
  if (action == "erase") return Kind::kErase;
  throw Error(ErrorCode::kUsage, "the action is none of save, restore and erase", "action",
              "Ask for one of them: ?action=save");
}

std::string session_name(std::string_view body) {
  JsonBudget budget;
  const Json object = parse_object(body, budget);
  std::string name = FieldReader(object, "").required_text("filename");
  if (!tiers::is_session_name(name))
    refuse_field("filename", fmt::format("filename is {}, which is no name", shown(Json(name))),
                 "Use 1 to 64 letters, digits, dots, underscores and hyphens, no dot in front.");
  return name;
}

}  // namespace

SlotAction parse_slot_action(std::string_view slot, std::string_view action,
                             std::string_view body) {
  SlotAction out;
  const auto [end, fault] = std::from_chars(slot.data(), slot.data() + slot.size(), out.slot);
  STRATA_CHECK(fault == std::errc{} && end == slot.data() + slot.size(), "no number of %zu digits",
               slot.size());
  out.kind = kind_of(action);
  if (out.kind != Kind::kErase) out.name = session_name(body);
  return out;
}

Json slot_action_json(const SlotAction& action, const SlotOutcome& outcome, double ms) {
  Json json = {{"id_slot", action.slot}};
  switch (action.kind) {
    case Kind::kSave:
      json.update({{"filename", action.name},
                   {"n_saved", outcome.n_tokens},
                   {"n_written", outcome.n_bytes},
                   {"timings", {{"save_ms", ms}}}});
      break;
    case Kind::kRestore:
      json.update({{"filename", action.name},
                   {"n_restored", outcome.n_tokens},
                   {"n_read", outcome.n_bytes},
                   {"timings", {{"restore_ms", ms}}}});
      break;
    case Kind::kErase:
      json["n_erased"] = outcome.n_tokens;
      break;
  }
  return json;
}

ApiError slot_refusal(const SlotAction& action, const SlotOutcome& outcome) {
  using End = SlotOutcome::End;
  STRATA_CHECK(outcome.end != End::kDone, "slot %u: nothing is refused", action.slot);
  ApiError error;
  error.type = "invalid_request_error";
  error.status = outcome.end == End::kIsBusy ? 409 : 404;
  if (outcome.end == End::kIsBusy)
    error.message =
        fmt::format("slot {} is answering. Try again when its answer has ended.", action.slot);
  else if (outcome.end == End::kNoName)
    error.message = fmt::format(
        "no context of this model is saved as {}. `strata session list` names those that are.",
        action.name);
  else if (action.kind == Kind::kRestore)
    error.message = fmt::format("slot {} is another key's. Take one that GET /slots does not list.",
                                action.slot);
  else
    error.message =
        fmt::format("no context is in slot {}. GET /slots lists those that are held.", action.slot);
  return error;
}

}  // namespace strata::serve
