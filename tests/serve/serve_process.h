// tests/serve/serve_process.h - `strata serve` as a process on a port that is free.
#pragma once

#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::serve::testing {

class ServedTest : public cli::testing::RefusalTest {
 protected:
  void serve(const std::string& model_path, const std::vector<std::string>& more,
             const std::map<std::string, std::string>& environment = {}) {
    std::vector<std::string> arguments = {"serve", "-m", model_path, "--port", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    process_.emplace(arguments, cli::testing::StrataProcess::Input::kNone, environment);
    ASSERT_TRUE(process_->wait_for_err(" serves "));
    const std::string prefix = "http://127.0.0.1:";
    const size_t at = process_->err().find(prefix);
    ASSERT_NE(at, std::string::npos) << process_->err();
    port_ = static_cast<uint16_t>(std::atoi(process_->err().c_str() + at + prefix.size()));
  }
  uint16_t port() const { return port_; }
  std::optional<cli::testing::StrataProcess> process_;

 private:
  uint16_t port_ = 0;
};

}  // namespace strata::serve::testing
