// engine/hyper_parameters.h - the one table of hyper-parameters: key, range, default; and the
// readers that enforce it. Why: every number a file gives is range-checked in one place before
// anything is computed or allocated from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/gguf_file.h"

namespace strata::engine {

enum class HyperParameter : uint8_t {
  kLayers,
  kContext,
  kModelDim,
  kFeedForward,
  kHeads,
  kKvHeads,
  kKeyLength,
  kValueLength,
  kNormEpsilon,
  kWindow,
  kWindowPattern,
  kRopeDims,
  kRopeBase,
  kRopeBaseWindow,
  kRopeFactor,
  kRopeFactorOld,
  kRopeContext,
  kRopeAttnFactor,
  kYarnExtFactor,
  kYarnBetaFast,
  kYarnBetaSlow,
};

/// The hyper-parameters of one file: `architecture.suffix` keys, each within its row's range.
/// Errors of every reader: kBadFile naming the key, the wanted range and what was found.
class HyperParameters {
 public:
  HyperParameters(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(architecture) {}

  /// "llama.block_count".
  std::string key(HyperParameter parameter) const;
  std::string where(HyperParameter parameter) const;

  /// Absent: nothing (an optional parameter) or an error (a required one).
  std::optional<uint32_t> find_uint(HyperParameter parameter) const;
  std::optional<double> find_real(HyperParameter parameter) const;
  uint32_t get_uint(HyperParameter parameter) const;  // required
  double get_real(HyperParameter parameter) const;    // required
  /// One value per layer, from a scalar or an array of n_layers;
  /// empty where the key is absent and optional.
  std::vector<uint32_t> get_per_layer(HyperParameter parameter, uint32_t n_layers) const;

  /// The range of a row, for values that come from elsewhere (user overrides).
  static double min(HyperParameter parameter);
  static double max(HyperParameter parameter);

  const GgufFile& file() const { return file_; }
  const std::string& prefix() const { return prefix_; }

 private:
  void check_range(HyperParameter parameter, double value) const;
  [[noreturn]] void fail_absent(HyperParameter parameter) const;
  const GgufFile& file_;
  std::string prefix_;
};

/// Refuses what no row of the architecture table runs: experts, softcapping, scales, M-RoPE and the
/// like. Errors: kUnsupported naming the feature and its key.
void refuse_unknown_features(const HyperParameters& parameters);

}  // namespace strata::engine
