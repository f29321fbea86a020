// base/layer_piece.h - the pieces of a layer's weights: each lives and moves as a whole, apart from
// the other where a user says so (docs/adr/0020-pieces-of-layers.md).
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata {

/// attn_q, attn_k, attn_v and attn_output; ffn_gate, ffn_up and ffn_down. In the order in which a
/// step reads them.
enum class LayerPiece : uint8_t { kAttention, kFfn };
inline constexpr size_t kLayerPieces = 2;
inline constexpr LayerPiece kEachPiece[kLayerPieces] = {LayerPiece::kAttention, LayerPiece::kFfn};

/// "attention", "ffn": as plan files and JSON spell them.
constexpr const char* layer_piece_name(LayerPiece piece) {
  return piece == LayerPiece::kAttention ? "attention" : "ffn";
}

constexpr LayerPiece other_piece(LayerPiece piece) {
  return piece == LayerPiece::kAttention ? LayerPiece::kFfn : LayerPiece::kAttention;
}

/// Some of a layer's pieces.
struct PieceSet {
  bool attention = false, ffn = false;

  constexpr bool has(LayerPiece piece) const {
    return piece == LayerPiece::kAttention ? attention : ffn;
  }
  constexpr void add(LayerPiece piece) {
    (piece == LayerPiece::kAttention ? attention : ffn) = true;
  }
  constexpr bool is_any() const { return attention || ffn; }
  constexpr bool is_whole() const { return attention && ffn; }
  bool operator==(const PieceSet&) const = default;
};
inline constexpr PieceSet kNoPiece{}, kWholeLayer{true, true};
constexpr PieceSet other_pieces(PieceSet of) { return {!of.attention, !of.ffn}; }
constexpr PieceSet common_pieces(PieceSet a, PieceSet b) {
  return {a.attention && b.attention, a.ffn && b.ffn};
}
constexpr PieceSet without(PieceSet of, PieceSet others) {
  return common_pieces(of, other_pieces(others));
}

}  // namespace strata
