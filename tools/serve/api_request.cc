#include "tools/serve/api_request.h"

#include "tools/serve/request_shapes.h"

namespace strata::serve {

ApiRequest parse_request(ApiShape shape, std::string_view body, const ApiDefaults& defaults) {
  JsonBudget budget;
  const nlohmann::ordered_json json = parse_object(body, budget);
  RequestBody reader{FieldReader(json, ""), budget};
  ApiRequest request;
  request.shape = shape;
  request.order.sampler = defaults.sampler;
  request.order.n_predict = defaults.n_predict;
  if (shape == ApiShape::kMessages) {
    read_anthropic_request(reader, request);
  } else {
    read_openai_request(reader, request);
  }
  return request;
}

}  // namespace strata::serve
