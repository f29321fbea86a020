// tools/serve/answer_reply.h - from an order to a reply: the events of its answer go out as they
// come, or as one body.
#pragma once

#include <memory>

#include "tools/serve/answer_service.h"
#include "tools/serve/api_response.h"
#include "tools/serve/http_message.h"
#include "tools/serve/serve_metrics.h"

namespace strata::serve {

/// Takes the order and, unless it is streamed, waits for its answer. `body_share` is given back
/// once the order is taken. Where the client goes before the end, the order is cancelled. `metrics`
/// outlives the reply. Errors: those of AnswerService::submit().
HttpReply answer_reply(AnswerService& service, ApiRequest request, BodyShare body_share,
                       const ApiIdentity& identity, ServeMetrics& metrics,
                       const HttpClient& client);

}  // namespace strata::serve
