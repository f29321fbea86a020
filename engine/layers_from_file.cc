#include "engine/layers_from_file.h"

#include "base/check.h"

namespace strata::engine {
namespace {

// Of a wait for the disk: so late a copy begins that could have begun meanwhile.
constexpr std::chrono::microseconds kMoment{100};

std::vector<PieceSet> all_but(const std::vector<PieceSet>& pieces) {
  std::vector<PieceSet> others;
  for (const PieceSet& of : pieces) others.push_back(other_pieces(of));
  return others;
}

}  // namespace

LayersFromFile::LayersFromFile(const Model& host, std::vector<PieceSet> pieces)
    : host_(host), pieces_(std::move(pieces)), round_(host.add_round(all_but(pieces_))) {}

void LayersFromFile::use(LayerTaker* taker) {
  taker_ = taker;
  if (taker == nullptr) return;
  host_.begin_round(round_);
  taker->read_ahead({});
}

const std::byte* LayersFromFile::take(uint32_t layer) {
  STRATA_CHECK(taker_ != nullptr, "nobody reads layer %u", layer);
  lease_ = taker_->take_layer(layer);
  return pieces_[layer].attention ? (*lease_).q.bytes : (*lease_).ffn_gate.bytes;
}

bool LayersFromFile::is_there(uint32_t layer) const {
  return taker_ != nullptr && host_.is_layer_there(layer);
}

bool LayersFromFile::go_on() { return taker_ != nullptr && taker_->read_ahead(kMoment); }

}  // namespace strata::engine
