// tools/serve/tagged_call.h - a call of a tool whose parameters stand between tags and are no JSON,
// as Qwen3-Coder's template has it:
//   <function=NAME> <parameter=KEY> VALUE </parameter> ... </function>
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace strata::serve {

/// Reads one call, however its text is cut.
class TaggedCall {
 public:
  enum class State : uint8_t { kOpen, kWhole, kBroken };

  /// Looks on at `text` from `at`, where the call began or the last look ended; `at` comes to stand
  /// behind what was looked at, which is all of the call where it is whole.
  State look(std::string_view text, size_t& at);

  const std::string& name() const { return name_; }
  /// JSON text of an object. A value whose property is a string in the schema of that tool is its
  /// text, but null where it may be null and says so. Others are JSON where they can be read as
  /// such, and text where they cannot. Python's None is null, too, and its True and False are
  /// booleans where the schema has them.
  /// `tools`: as templates read them; null = no schema is known.
  std::string arguments(const nlohmann::ordered_json& tools) const;

 private:
  enum class Stage : uint8_t { kFunction, kTag, kValue };
  State look_at_tag(std::string_view text, size_t& at);
  State look_at_value(std::string_view text, size_t& at);

  Stage stage_ = Stage::kFunction;
  std::string name_, key_;
  size_t value_begin_ = 0;
  std::vector<std::pair<std::string, std::string>> parameters_;
};

}  // namespace strata::serve
