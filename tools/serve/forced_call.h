// tools/serve/forced_call.h - an answer that has to be a call of a tool: bound to the JSON of one
// call, behind the marker that the model's family writes before it.
#pragma once

#include "tools/serve/api_request.h"
#include "tools/serve/tool_calls.h"

namespace strata::serve {

/// Where the request forces a call, sets the schema of its answer and what the prompt ends with.
/// `style` is the template's; families that write no JSON get that of their older models. Returns
/// how the calls of the answer are read: `style` where none is forced. Errors: kUsage (no tools,
/// none of that name, a family whose calls are not known here; parameters outside the subset of
/// engine/grammar/json_grammar.h, or that need not be an object; `{}` stands for any object).
ToolCallStyle bind_forced_call(ApiRequest& request, ToolCallStyle style);

}  // namespace strata::serve
