// tests/serve/served_page.h - the page over a scripted service, on a port of its own.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include <fmt/format.h>

#include "tests/serve/scripted_service.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve::testing {

class ServedPage : public ::testing::Test {
 protected:
  void SetUp() override {
    service_.said_facts.plan = {"The planner decided.", "+1 GiB of <DRAM> would bring nothing."};
    service_.said_facts.layer_places = {"dram", "nvme"};
    service_.said_facts.attention = "quest";
    service_.said_facts.ffn_places = {"", "dram"};
    service_.said_facts.attention_budget = "2048";
    service_.said_facts.kv_bytes_per_token = 64;
    service_.said_layers = {{.hbm = 0, .dram = 9, .nvme = 0}, {.hbm = 0, .dram = 3, .nvme = 6}};
    service_.said_counts.tiers = {{.name = "dram", .budget_bytes = 1000, .weights_bytes = 400}};
    service_.said_counts.hit_rate = 0.75;
    service_.said_counts.hbm_hit_rate = 0.125;
    service_.said_counts.slots = {{.id = 4, .is_busy = true, .n_tokens = 90}};
    app_.emplace(ServeApp::Options{});
    app_->set_service(service_);
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), *app_, HttpLimits{});
  }
  uint16_t port() const { return server_->listener().port(); }
  std::string url() const { return fmt::format("http://127.0.0.1:{}/", port()); }
  ScriptedService service_;
  std::optional<ServeApp> app_;
  std::optional<HttpServer> server_;
};

}  // namespace strata::serve::testing
