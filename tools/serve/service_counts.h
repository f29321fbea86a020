// tools/serve/service_counts.h - what a server says about its engine: facts that stay, and where
// bytes lie and move.
#pragma once

#include <string>

#include "engine/engine.h"
#include "tools/serve/answer_service.h"

namespace strata::serve {

ServiceFacts service_facts(const engine::Engine& engine, const std::string& chat_template,
                           uint32_t n_parallel, const std::vector<std::string>& plan);
/// Fills in what the engine counts. On the thread of the walk.
void count_engine(engine::Engine& engine, ServiceCounts& counts);
/// Adds an answer that has ended.
void count_answer(const engine::Generation& answer, ServiceCounts& sums);

}  // namespace strata::serve
