#include "tools/cli/plan_pins.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>
#include <regex>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/even_spread.h"
#include "base/layer_piece.h"
#include "engine/layer_weights.h"

namespace strata::cli {
namespace {

using planner::PiecePins;
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

const char* piece_words(LayerPiece piece) {
  return piece == LayerPiece::kAttention ? "attention" : "FFN";
}

std::string tensor_name(uint32_t layer, const engine::LayerMatrix& matrix) {
  return fmt::format("blk.{}.{}", layer, matrix.tensor);
}

/// A pattern for layers: of all their matrices, or with the prefix of a piece's behind it.
std::string layers_pattern(const std::vector<uint32_t>& layers, uint32_t n_layers) {
  if (layers.size() == n_layers || layers.size() > kNamedLayers) return "blk\\.[0-9]+\\.";
  return fmt::format("blk\\.({})\\.", fmt::join(layers, "|"));
}

/// What all matrices of a piece begin with, behind "blk.N.".
const char* piece_prefix(LayerPiece piece) {
  return piece == LayerPiece::kAttention ? "attn_" : "ffn_";
}

/// A piece of a layer of which a pattern catches some matrices and not others.
struct TornPiece {
  LayerPiece piece = LayerPiece::kFfn;
  std::string caught;               // the last of them
  std::vector<std::string> missed;  // all of them
  std::vector<uint32_t> layers;     // in which it is so
};

struct Caught {
  std::vector<PieceSet> layers;   // [n_layers]
  std::optional<TornPiece> torn;  // the first
  bool is_any() const { return std::ranges::any_of(layers, &PieceSet::is_any); }
};

void catch_piece(const std::regex& pattern, uint32_t layer, LayerPiece piece, Caught& found) {
  TornPiece torn{.piece = piece, .caught = {}, .missed = {}, .layers = {layer}};
  for (const engine::LayerMatrix& matrix : engine::kLayerMatrices) {
    if (matrix.piece != piece) continue;
    std::string name = tensor_name(layer, matrix);
    if (std::regex_search(name, pattern)) {
      torn.caught = std::move(name);
    } else {
      torn.missed.push_back(std::move(name));
    }
  }
  if (torn.caught.empty()) return;
  if (torn.missed.empty()) return found.layers[layer].add(piece);
  if (!found.torn) {
    found.torn = std::move(torn);
  } else if (found.torn->piece == piece) {
    found.torn->layers.push_back(layer);
  }
}

Caught catch_layers(const std::regex& pattern, uint32_t n_layers) {
  Caught found;
  found.layers.resize(n_layers);
  for (uint32_t layer = 0; layer < n_layers; ++layer)
    for (const LayerPiece piece : kEachPiece) catch_piece(pattern, layer, piece, found);
  return found;
}

/// The pieces of each layer that a pin catches.
std::vector<PieceSet> pinned_pieces(const Command& command, const Pin& pin,
                                    const engine::GgufFile& file, uint32_t n_layers) {
  const std::regex pattern = compiled(command, pin);
  Caught found = catch_layers(pattern, n_layers);
  const char* tier = planner::plan_tier_name(pin.tier);
  if (const auto& torn = found.torn)
    refuse(
        command,
        fmt::format("--pin '{}' catches {} and not {}: a layer's {} matrices move together",
                    pin.text, torn->caught, torn->missed.front(), piece_words(torn->piece)),
        fmt::format("name {} too, or all of them: --pin '{}{}={}'", fmt::join(torn->missed, ", "),
                    layers_pattern(torn->layers, n_layers), piece_prefix(torn->piece), tier));
  if (found.is_any()) return std::move(found.layers);
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

/// The pins of each layer's pieces.
using PinsOfLayers = std::vector<std::array<std::optional<Pin>, kLayerPieces>>;

void add_pin(const Command& command, const Pin& pin, const std::vector<PieceSet>& caught,
             PinsOfLayers& of_layers) {
  for (size_t layer = 0; layer < caught.size(); ++layer)
    for (const LayerPiece piece : kEachPiece) {
      if (!caught[layer].has(piece)) continue;
      std::optional<Pin>& pinned = of_layers[layer][static_cast<size_t>(piece)];
      if (pinned && pinned->tier != pin.tier)
        refuse(command,
               fmt::format("--pin '{}' and --pin '{}' contradict each other: both catch layer {}'s "
                           "{} matrices",
                           pinned->text, pin.text, layer, piece_words(piece)),
               "leave one of them out, or let them catch different tensors");
      pinned = pin;
    }
}

bool is_open(const TierSet& tiers) { return tiers.hbm && tiers.dram; }

/// Exactly `wanted` layers in HBM, but for pieces that a pin keeps elsewhere. Those that no pin
/// names, or not whole, are spread evenly, so that the others come while these compute; the model's
/// number or more means all that no pin keeps elsewhere.
void add_device_layers(const Command& command, uint64_t wanted, std::vector<PiecePins>& layers) {
  std::vector<uint32_t> open;
  uint64_t n_pinned = 0;
  for (uint32_t i = 0; i < layers.size(); ++i) {
    if (std::ranges::any_of(layers[i], is_open)) {
      open.push_back(i);
    } else if (std::ranges::any_of(layers[i], &TierSet::hbm)) {
      ++n_pinned;
    }
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
    for (TierSet& piece : layers[open[i]])
      if (is_open(piece)) piece = {.hbm = is_there, .dram = !is_there, .nvme = !is_there};
  }
}

}  // namespace

PlanPins plan_pins(const Command& command, const engine::GgufFile& file, uint32_t n_layers) {
  const Settings& settings = command.settings;
  PlanPins pins;
  if (settings.kv_tier != "auto") pins.kv = tier_of(settings.kv_tier);
  if (settings.pin.empty() && settings.n_gpu_layers < 0) return pins;
  PinsOfLayers of_layers(n_layers);
  for (const std::string& text : settings.pin) {
    const Pin pin = read_pin(command, text);
    add_pin(command, pin, pinned_pieces(command, pin, file, n_layers), of_layers);
  }
  for (const auto& of_pieces : of_layers) {
    PiecePins& tiers = pins.layers.emplace_back();
    for (size_t piece = 0; piece < kLayerPieces; ++piece)
      if (const auto& pin = of_pieces[piece]) tiers[piece] = planner::just(pin->tier);
  }
  if (settings.n_gpu_layers >= 0)
    add_device_layers(command, static_cast<uint64_t>(settings.n_gpu_layers), pins.layers);
  return pins;
}

void check_pinned_tiers(const Command& command, const PlanPins& pins, const PinnableTiers& tiers) {
  const auto refuse_tier = [&](const char* option, const char* what, const char* remedy) {
    throw Error(ErrorCode::kUsage, what, command.where(option), remedy);
  };
  const auto must_be = [](PlanTier tier) {
    return [tier](const PiecePins& pieces) {
      return std::ranges::count(pieces, planner::just(tier)) > 0;
    };
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
                "pin to dram, or beside a card name it with --device cuda:N");
  if (!tiers.may_spill && pins.kv == PlanTier::kNvme)
    refuse_tier("kv-tier", "K and V cannot go to disk here",
                "use --kv-tier dram, or name a folder with --nvme; beside a card also the card "
                "(--device cuda:N), and no blocks are chosen then (--attn exact)");
  if (tiers.may_spill && !tiers.is_long && pins.kv == PlanTier::kNvme)
    refuse_tier("kv-tier", "so short a context stays in memory: K and V that spill keep as much",
                "use --kv-tier dram, or a larger -c");
}

}  // namespace strata::cli
