// tests/tiers/pack_fixture.h - small packs of any shape, in a directory of their own.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "tiers/pack_directory.h"

namespace strata::tiers {

/// A path under the tests' temporary folder where nothing is; removed with all that is made there.
class FreshPath {
 public:
  FreshPath() {
    static std::atomic<int> count = 0;
    path_ = ::testing::TempDir() + "strata_packs_" + std::to_string(getpid()) + "_" +
            std::to_string(++count);
    std::filesystem::remove_all(path_);
  }
  ~FreshPath() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  FreshPath(const FreshPath&) = delete;
  FreshPath& operator=(const FreshPath&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::vector<std::byte> bytes_of_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline void write_file(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
}

/// The names in a directory, the lock file aside.
inline std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().filename() != ".lock") names.push_back(entry.path().filename());
  std::ranges::sort(names);
  return names;
}

/// Three layers: a full one, one with a window of 40, one that reads another one's blocks.
inline PackShape small_shape() {
  PackShape shape;
  shape.model = {1, 2};
  shape.head_dim = 8;
  shape.layers = {{2, 0}, {1, 40}, {0, 0}};
  return shape;
}

inline std::vector<int32_t> random_text(uint64_t seed, size_t n) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 50000);
  return tokens;
}

/// The bytes of a block are a function of what the block is.
inline std::vector<std::byte> block_bytes(const PackHead& head, const PackGeometry& geometry,
                                          uint32_t layer, uint32_t kv_head, uint32_t block) {
  const Hash128 chain = head.chains[block];
  std::mt19937_64 random(chain.low ^ (uint64_t{layer} << 32) ^ (uint64_t{kv_head} << 16));
  std::vector<std::byte> bytes(geometry.block_bytes);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

using Presence = std::function<bool(uint32_t layer, uint32_t block)>;

/// The run of `text` from first_pos on, up to end_pos.
inline PackRun run_of(const PackShape& shape, std::span<const int32_t> text, uint32_t first_pos,
                      uint32_t end_pos) {
  PackRun run;
  run.shape = shape;
  run.first_pos = first_pos;
  for (uint32_t pos = 0; pos < first_pos; pos += kBlockPositions)
    run.chain_before = extend_chain(run.chain_before, text.subspan(pos, kBlockPositions));
  const auto part = text.subspan(first_pos, end_pos - first_pos);
  run.tokens.assign(part.begin(), part.end());
  return run;
}

/// Writes every region of a run, with the blocks of windowed layers that `is_there` names.
inline void write_blocks(PackWriter& writer, const Presence& is_there = {}) {
  const PackHead head = PackHead::of(writer.head().run);
  for (uint32_t extent = 0; extent < head.n_extents(); ++extent) {
    for (uint32_t layer = 0; layer < head.n_layers(); ++layer) {
      const PackLayer& shape = head.run.shape.layers[layer];
      if (shape.n_kv_heads == 0) continue;
      std::vector<std::vector<std::byte>> blocks;
      std::vector<const std::byte*> addresses;
      for (uint32_t kv_head = 0; kv_head < shape.n_kv_heads; ++kv_head) {
        for (uint32_t i = 0; i < head.extent_blocks(extent); ++i) {
          const uint32_t block = extent * kExtentBlocks + i;
          blocks.push_back(block_bytes(head, writer.geometry(), layer, kv_head, block));
          const bool is_absent = shape.window > 0 && is_there && !is_there(layer, block);
          addresses.push_back(is_absent ? nullptr : blocks.back().data());
        }
      }
      writer.write(extent, layer, addresses);
    }
  }
}

/// Saves a run; returns the name of its pack.
inline std::string save_run(PackDirectory& packs, PackRun run, const Presence& is_there = {}) {
  PackWriter writer = packs.start(std::move(run));
  write_blocks(writer, is_there);
  return packs.publish(std::move(writer));
}

/// Saves `text` in packs of at most `pack_positions`; returns their names.
inline std::vector<std::string> save_text(PackDirectory& packs, const PackShape& shape,
                                          std::span<const int32_t> text,
                                          uint32_t pack_positions = kPackPositionsMax) {
  std::vector<std::string> names;
  const auto n = static_cast<uint32_t>(text.size());
  for (uint32_t pos = 0; pos < n; pos += pack_positions)
    names.push_back(save_run(packs, run_of(shape, text, pos, std::min(n, pos + pack_positions))));
  return names;
}

/// Reads every block that the pieces promise and compares it with what was saved.
inline void expect_whole(const FoundContext& found) {
  for (const FoundPiece& piece : found.pieces) {
    const PackHead& head = piece.pack->head();
    const KvLayout layout =
        KvLayout::make(head.run.shape.k_codec, head.run.shape.v_codec, head.run.shape.head_dim);
    for (uint32_t extent = 0; extent < head.n_extents(); ++extent) {
      for (uint32_t layer = 0; layer < head.n_layers(); ++layer) {
        if (!head.has_region(layer, extent)) continue;
        std::vector<std::byte> region(
            static_cast<size_t>(region_payload_bytes(head, piece.pack->geometry(), extent, layer)));
        piece.pack->read_region(extent, layer, region);
        for (size_t i = 0; i < region.size() / layout.block_bytes; ++i) {
          const uint32_t n = head.extent_blocks(extent);
          const uint32_t block = extent * kExtentBlocks + static_cast<uint32_t>(i % n);
          if (!head.has(layer, block)) continue;
          auto wanted =
              block_bytes(head, piece.pack->geometry(), layer, static_cast<uint32_t>(i / n), block);
          clear_rows_from(head.block_positions(block), layout, wanted);
          ASSERT_EQ(std::memcmp(wanted.data(), region.data() + i * layout.block_bytes,
                                layout.block_bytes),
                    0)
              << "layer " << layer << " block " << block;
        }
      }
    }
  }
}

/// What is wrong with any pack or session, one a line; reads every byte.
inline std::string problems_of(PackDirectory& packs) {
  std::string text;
  for (const PackEntry& entry : packs.packs()) {
    const auto verdict = packs.verify_pack(entry.name);
    if (!verdict) continue;
    if (!verdict->problem.empty()) text += entry.name + ": " + verdict->problem + "\n";
    for (const RefusedFile& rows : verdict->rows) text += rows.name + ": " + rows.problem + "\n";
  }
  for (const RefusedFile& file : packs.refused()) text += file.name + ": " + file.problem + "\n";
  for (const SessionEntry& entry : packs.list()) {
    if (!entry.problem.empty()) text += entry.name + ": " + entry.problem + "\n";
    if (entry.n_packs_missing > 0) text += entry.name + ": packs are missing\n";
  }
  return text;
}

/// Removes every pack, of which no session pins one.
inline void remove_packs(PackDirectory& packs) {
  std::vector<std::string> names;
  for (const PackEntry& entry : packs.packs()) names.push_back(entry.name);
  EXPECT_EQ(packs.remove_unpinned(names), names);
}

/// The code of the Error that `call` throws, or "none".
inline std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(error_code_name(error.code()));
  }
  return "none";
}

}  // namespace strata::tiers
