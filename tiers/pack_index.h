// tiers/pack_index.h - which packs hold which stretches of a text; in memory, from packs' heads.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "tiers/pack_format.h"
#include "tiers/text_match.h"

namespace strata::tiers {

/// A stretch of a text in one pack: its blocks first_block to first_block + n_blocks - 1.
struct PackStretch {
  std::string pack;
  uint32_t first_block = 0;  // in the pack
  uint32_t n_blocks = 0;
  uint32_t n_positions = 0;  // of the stretch; 32 in each block but perhaps the text's last one
};

/// Stretches that follow each other from position 0 on.
struct TextCover {
  std::vector<PackStretch> stretches;
  uint32_t n_positions = 0;
};

/// Not thread-safe.
class PackIndex {
 public:
  void add(const std::string& name, PackHead head, int64_t used_ns = 0);
  void remove(const std::string& name);
  /// Notes a use of a pack that is there.
  void use(const std::string& name, int64_t used_ns);
  /// Of memory, about: per position 5, per block 80 and one for each layer.
  uint64_t bytes() const { return bytes_; }
  static uint64_t bytes_of(const PackHead& head);  // its share of them
  /// What was used the least recently, or nothing. Looks at all.
  struct Use {
    int64_t used_ns = 0;
    std::string pack;
    auto operator<=>(const Use&) const = default;
  };
  std::optional<Use> oldest() const;
  bool has(const std::string& name) const { return heads_.contains(name); }
  size_t size() const { return heads_.size(); }
  const std::map<std::string, PackHead>& heads() const { return heads_; }
  /// Packs that hold nothing that `head` lacks but perhaps the short block at their end: they begin
  /// where it does, and its text goes on where theirs ends.
  std::vector<std::string> covered_by(const PackHead& head) const;

  /// The longest beginning of `tokens` from which a model of this shape can go on: layers without
  /// a window have every block of it, the others those that the next position attends to. Blocks
  /// count whole, but for the last one of a pack where the text ends or differs right behind it.
  /// `root` is the chain hash before position 0.
  TextCover find(const PackShape& shape, const Hash128& root,
                 std::span<const int32_t> tokens) const;

  /// The saved tokens of the longest beginning of a text that ends with a generated one, found by
  /// the bytes they stand for; nothing where no generated token is. Depends on what is saved alone.
  KnownText find_text(const PackShape& shape, const Hash128& root, std::string_view text,
                      const TokenBytes& bytes_of) const;

 private:
  struct HashOfHash {
    size_t operator()(const Hash128& hash) const { return static_cast<size_t>(hash.low); }
  };
  using Places =
      std::unordered_multimap<Hash128, const std::map<std::string, PackHead>::value_type*,
                              HashOfHash>;
  /// A pack that holds a stretch of the text: positions run.first_pos to end_pos - 1.
  struct Match {
    const std::map<std::string, PackHead>::value_type* pack = nullptr;
    uint32_t end_pos = 0;
  };

  std::vector<Match> matches_of(const PackShape& shape, const Hash128& root,
                                std::span<const int32_t> tokens) const;

  std::map<std::string, PackHead> heads_;
  std::map<std::string, int64_t> used_ns_;  // as heads_
  uint64_t bytes_ = 0;
  Places whole_blocks_;  // by the chain hash after the block
  Places begins_;        // by the chain hash before the first block
  Places short_blocks_;  // by the chain hash before the last block, where that has fewer rows
};

}  // namespace strata::tiers
