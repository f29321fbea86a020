#include "tools/cli/plan_pins.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <regex>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/even_spread.h"
#include "engine/layer_weights.h"

namespace strata::cli {
namespace {

using planner::PlanTier;
using planner::TierSet;

// std::regex, for llama.cpp reads these patterns so; PCRE2 stays where texts are cut. Its matcher
// without backtracking keeps any pattern polynomial; how deep it recurses grows with the pattern
// and with the product of its counts, hence these bounds.
constexpr size_t kPatternMax = 200;
constexpr uint32_t kCountsMax = 256;
constexpr uint32_t kMatrices = std::size(engine::kLayerMatrices);
constexpr size_t kNamedLayers = 12;  // in a proposed pattern

struct Pin {
  std::string text;  // as it was given
  std::string pattern;
  PlanTier tier;
};

[[noreturn]] void refuse(const Command& command, const std::string& what,
                         const std::string& remedy) {
  throw Error(ErrorCode::kUsage, what, command.where("pin"), remedy);
}

std::optional<PlanTier> tier_of(std::string_view name) {
  if (name == "hbm" || name == "CUDA0") return PlanTier::kHbm;
  if (name == "dram" || name == "CPU") return PlanTier::kDram;
  if (name == "nvme") return PlanTier::kNvme;
  return std::nullopt;
}

Pin read_pin(const Command& command, const std::string& text) {
  constexpr const char* kLike = "write it as 'blk\\.[0-3]\\.=dram'";
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0)
    refuse(command, fmt::format("--pin wants REGEX=hbm|dram|nvme, found '{}'", text), kLike);
  const auto tier = tier_of(std::string_view(text).substr(equals + 1));
  if (!tier)
    refuse(
        command,
        fmt::format("--pin wants one of hbm, dram and nvme, found '{}'", text.substr(equals + 1)),
        kLike);
  return {text, text.substr(0, equals), *tier};
}

/// The product of the counts in {braces}: so many copies of something the matcher holds.
uint64_t repeated(std::string_view pattern) {
  uint64_t product = 1;
  for (size_t at = pattern.find('{'); at != std::string_view::npos; at = pattern.find('{', at + 1))
    for (const char* from = pattern.data() + at + 1; from < pattern.data() + pattern.size();) {
      uint32_t count = 0;
      const auto read = std::from_chars(from, pattern.data() + pattern.size(), count);
      if (read.ec == std::errc::invalid_argument) break;
      product *= read.ec == std::errc{} ? std::clamp(count, 1U, kCountsMax + 1) : kCountsMax + 1;
      if (product > kCountsMax) return product;
      from = read.ptr + 1;  // behind the comma of {2,3}
    }
  return product;
}

std::regex compiled(const Command& command, const Pin& pin) {
  constexpr const char* kSimpler = "use a simpler pattern, such as 'blk\\.[0-9]+\\.'";
  if (pin.pattern.size() > kPatternMax || repeated(pin.pattern) > kCountsMax)
    refuse(command,
           fmt::format("a pattern of --pin has at most {} characters and repeats at most {} times",
                       kPatternMax, kCountsMax),
           kSimpler);
  try {
    return std::regex(pin.pattern, std::regex::ECMAScript | std::regex_constants::__polynomial);
  } catch (const std::regex_error& error) {
    refuse(command, fmt::format("--pin '{}' is no pattern: {}", pin.text, error.what()), kSimpler);
  }
}

std::string tensor_name(uint32_t layer, const engine::LayerMatrix& matrix) {
  return fmt::format("blk.{}.{}", layer, matrix.tensor);
}

/// A pattern for whole layers.
std::string layers_pattern(const std::vector<uint32_t>& layers, uint32_t n_layers) {
  if (layers.size() == n_layers || layers.size() > kNamedLayers) return "blk\\.[0-9]+\\.";
  return fmt::format("blk\\.({})\\.", fmt::join(layers, "|"));
}

struct Caught {
  std::vector<uint32_t> whole, partly;  // layers
  std::string caught, missed;           // matrices of the first that is caught in part
};

Caught catch_layers(const std::regex& pattern, uint32_t n_layers) {
  Caught found;
  for (uint32_t layer = 0; layer < n_layers; ++layer) {
    std::string caught, missed;
    uint32_t n = 0;
    for (const engine::LayerMatrix& matrix : engine::kLayerMatrices) {
      std::string name = tensor_name(layer, matrix);
      const bool is_caught = std::regex_search(name, pattern);
      n += is_caught ? 1 : 0;
      (is_caught ? caught : missed) = std::move(name);
    }
    if (n == kMatrices) found.whole.push_back(layer);
    if (n == 0 || n == kMatrices) continue;
    if (found.partly.empty()) {
      found.caught = caught;
      found.missed = missed;
    }
    found.partly.push_back(layer);
  }
  return found;
}

/// The layers of a pin.
std::vector<uint32_t> pinned_layers(const Command& command, const Pin& pin,
                                    const engine::GgufFile& file, uint32_t n_layers) {
  const std::regex pattern = compiled(command, pin);
  const Caught found = catch_layers(pattern, n_layers);
  const char* tier = planner::plan_tier_name(pin.tier);
  if (!found.partly.empty())
    refuse(command,
           fmt::format("--pin '{}' catches {} and not {}: a layer's matrices move together",
                       pin.text, found.caught, found.missed),
           fmt::format("pin whole layers: --pin '{}={}'", layers_pattern(found.partly, n_layers),
                       tier));
  if (!found.whole.empty()) return found.whole;
  for (const engine::GgufTensor& tensor : file.tensors())
    if (std::regex_search(tensor.name, pattern))
      refuse(command,
             fmt::format("--pin '{}' catches {}, which never moves: embedding, output head and "
                         "vectors have their places",
                         pin.text, tensor.name),
             fmt::format("pin layers: --pin 'blk\\.[0-9]+\\.={}'", tier));
  refuse(
      command, fmt::format("--pin '{}' catches no tensor of this model", pin.text),
      fmt::format("layers' tensors are called {} to {}", tensor_name(0, engine::kLayerMatrices[0]),
                  tensor_name(n_layers - 1, engine::kLayerMatrices[kMatrices - 1])));
}

void add_pin(const Command& command, const Pin& pin, const std::vector<uint32_t>& layers,
             std::vector<std::optional<Pin>>& of_layers) {
  for (const uint32_t layer : layers) {
    std::optional<Pin>& pinned = of_layers[layer];
    if (pinned && pinned->tier != pin.tier)
      refuse(command,
             fmt::format("--pin '{}' and --pin '{}' contradict each other: both catch layer {}",
                         pinned->text, pin.text, layer),
             "leave one of them out, or let them catch different layers");
    pinned = pin;
  }
}

/// Exactly `wanted` layers in HBM, those that no pin names spread evenly, so that the others come
/// while these compute; the model's number or more means all that no pin keeps elsewhere.
void add_device_layers(const Command& command, uint64_t wanted, std::vector<TierSet>& layers) {
  std::vector<uint32_t> open;
  uint64_t n_pinned = 0;
  for (uint32_t i = 0; i < layers.size(); ++i) {
    if (layers[i].hbm && layers[i].dram) open.push_back(i);
    if (layers[i].hbm && !layers[i].dram) ++n_pinned;
  }
  const uint64_t most = n_pinned + open.size();
  if (wanted >= layers.size()) wanted = most;
  if (wanted < n_pinned || wanted > most)
    throw Error(ErrorCode::kUsage,
                fmt::format("{} layers in the device's memory and --pin contradict each other: "
                            "the pins leave {} to {}",
                            wanted, n_pinned, most),
                command.where("n-gpu-layers"), fmt::format("use -ngl {}", most));
  const uint64_t n = open.size(), n_hbm = wanted - n_pinned;
  for (uint64_t i = 0; i < n; ++i) {
    const bool is_there = is_spread_to(i, n_hbm, n);
    layers[open[i]] = {.hbm = is_there, .dram = !is_there, .nvme = !is_there};
  }
}

}  // namespace

PlanPins plan_pins(const Command& command, const engine::GgufFile& file, uint32_t n_layers) {
  const Settings& settings = command.settings;
  PlanPins pins;
  if (settings.kv_tier != "auto") pins.kv = tier_of(settings.kv_tier);
  if (settings.pin.empty() && settings.n_gpu_layers < 0) return pins;
  std::vector<std::optional<Pin>> of_layers(n_layers);
  for (const std::string& text : settings.pin) {
    const Pin pin = read_pin(command, text);
    add_pin(command, pin, pinned_layers(command, pin, file, n_layers), of_layers);
  }
  for (const std::optional<Pin>& pin : of_layers)
    pins.layers.push_back(pin ? TierSet{pin->tier == PlanTier::kHbm, pin->tier == PlanTier::kDram,
                                        pin->tier == PlanTier::kNvme}
                              : TierSet{});
  if (settings.n_gpu_layers >= 0)
    add_device_layers(command, static_cast<uint64_t>(settings.n_gpu_layers), pins.layers);
  return pins;
}

void check_pinned_tiers(const Command& command, const PlanPins& pins, const PinnableTiers& tiers) {
  const auto refuse_tier = [&](const char* option, const char* what, const char* remedy) {
    throw Error(ErrorCode::kUsage, what, command.where(option), remedy);
  };
  const auto must_be = [](PlanTier tier) {
    return
        [tier](const TierSet& set) { return set.has(tier) && set.hbm + set.dram + set.nvme == 1; };
  };
  if (!tiers.has_device) {
    constexpr const char* kWhat = "hbm is the memory of a device, and none computes";
    constexpr const char* kOtherTier =
        "leave it out, or name a card with --device cuda:N or virtual:NAME";
    if (pins.kv == PlanTier::kHbm) refuse_tier("kv-tier", kWhat, kOtherTier);
    if (std::ranges::any_of(pins.layers, must_be(PlanTier::kHbm)))
      refuse_tier(command.settings.n_gpu_layers > 0 ? "n-gpu-layers" : "pin", kWhat, kOtherTier);
  }
  if (!tiers.may_stream && std::ranges::any_of(pins.layers, must_be(PlanTier::kNvme)))
    refuse_tier("pin", "weights cannot be read from the model file in every step here",
                "pin to dram; beside a card this engine does not stream weights from disk");
  if (!tiers.may_spill && pins.kv == PlanTier::kNvme)
    refuse_tier("kv-tier", "K and V cannot go to disk here",
                "use --kv-tier dram, or name a folder with --nvme; beside a card this engine does "
                "not spill");
  if (tiers.may_spill && !tiers.is_long && pins.kv == PlanTier::kNvme)
    refuse_tier("kv-tier", "so short a context stays in memory: K and V that spill keep as much",
                "use --kv-tier dram, or a larger -c");
}

}  // namespace strata::cli
