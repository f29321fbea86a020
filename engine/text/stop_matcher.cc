#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

std::vector<std::string> checked(std::vector<std::string> stops) {
  for (const std::string& stop : stops) {
    if (stop.empty())
      throw Error(ErrorCode::kUsage, "a stop string is empty", "--stop",
                  "Give at least one character.");
    if (const uint64_t fault = utf8_fault(stop); fault != stop.size())
      throw Error(ErrorCode::kUsage, fmt::format("a stop string is not UTF-8 at byte {}", fault),
                  "--stop", "Convert it to UTF-8.");
  }
  return stops;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops)
    : stops_(checked(std::move(stops))), patterns_(stops_) {
  size_t longest = 0;
  for (const std::string& stop : stops_) longest = std::max(longest, stop.size());
  held_.reserve(longest + kLongTokenBytes);
  shown_.reserve(longest + kLongTokenBytes);
}

/// The first bytes of what is held; the rest stays held.
std::string_view StopMatcher::show(size_t n_bytes) {
  shown_.assign(held_, 0, n_bytes);
  held_.erase(0, n_bytes);
  return shown_;
}

std::string_view StopMatcher::push(std::string_view text) {
  if (is_hit()) return {};
  held_ += text;
  const size_t begin = held_.size() - text.size();
  for (size_t i = 0; i < text.size(); ++i) {
    state_ = patterns_.step(state_, static_cast<uint8_t>(text[i]));
    const int32_t found = patterns_.longest(state_);
    if (found == PatternSet::kNone) continue;
    hit_ = found;
    held_.resize(begin + i + 1 - stops_[static_cast<size_t>(found)].size());
    return show(held_.size());
  }
  return show(held_.size() - patterns_.depth(state_));
}

std::string_view StopMatcher::finish() {
  state_ = PatternSet::kStart;
  return show(held_.size());
}

}  // namespace strata::engine
