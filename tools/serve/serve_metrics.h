// tools/serve/serve_metrics.h - what the server counts itself, and all counts as Prometheus reads
// them. Source: the text exposition format 0.0.4.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "tools/serve/answer_service.h"

namespace strata::serve {

/// Times in buckets of one, two and five of each power of ten.
class TimeHistogram {
 public:
  static constexpr std::array<double, 16> kBounds = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1,   2,
                                                     5,    10,   20,   50,  100, 200, 500, 1000};
  void add(double seconds);
  /// Of a family whose HELP and TYPE stand above.
  std::string text(std::string_view name) const;
  uint64_t count() const { return count_; }

 private:
  std::array<uint64_t, kBounds.size()> counts_ = {};  // of each bucket alone
  uint64_t count_ = 0;
  double sum_ = 0;
};

/// Threads: every function may be called from any thread.
class ServeMetrics {
 public:
  /// `route` is one of the server's own, or "other": never a client's text.
  void add_request(std::string_view route, int status);
  void add_first_token(double seconds);   // from the order to its first text
  void add_token(double seconds);         // mean of an answer, behind the first
  void add_whole_answer(double seconds);  // from the order to the end
  /// All series; `service` may be null while the model loads.
  std::string text(const ServiceCounts* service) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> requests_;
  TimeHistogram first_token_, token_, whole_answer_;
};

}  // namespace strata::serve
