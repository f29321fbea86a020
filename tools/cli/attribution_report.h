// tools/cli/attribution_report.h - where a token's time went, as tables and as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/cli/attribution.h"

namespace strata::cli {

/// "weight_disk", the key of a resource in JSON.
const char* resource_name(Resource resource);

/// Under the title of a test: a table of resources and one of stages, and where `by_layer` one of
/// layers, each a token's average. `dram_gbytes_per_s` is what memory gives; 0 = not measured.
std::string attribution_tables(const std::string& test, const Attribution& found,
                               double dram_gbytes_per_s, bool by_layer);
/// {n_steps, n_tokens, wall_ms, resources, stages, layers, steps}; times are a token's average but
/// in steps, each of which has its layers: a decoded token's by layer.
nlohmann::ordered_json attribution_json(const Attribution& found, double dram_gbytes_per_s);

}  // namespace strata::cli
