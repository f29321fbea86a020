// tests/engine/selected_walk.h - a walk that selects, with K and V in DRAM or mostly in a file.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/kv_placement.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"
#include "tests/tiers/stops_at.h"
#include "tiers/spill.h"

namespace strata::engine::testing {

enum class Place : uint8_t { kDram, kSimulated, kThreads, kUring };

struct SelectedSetting {
  index::Method method = index::Method::kOracle;
  index::Budget budget = {index::Budget::Kind::kTokens, 320};
  double residency_tolerance = 0;
  std::vector<index::LayerMode> layers = {};
  KvCodec codec = KvCodec::kF16;
  Place place = Place::kDram;
  tiers::SimulatedDisk disk = {};
  uint32_t n_threads = 2;
  uint32_t chunk_rows = 64;
  uint32_t n_ctx = 2048;
  uint32_t n_sequences = 1;
  uint32_t dram_positions = 500;  // that DRAM holds of a context, where not all of it
  uint32_t n_block_frames = 24;
};

class SelectedWalk {
 public:
  SelectedWalk(const Model& model, const SelectedSetting& setting)
      : setting_(setting), model_(model) {
    auto spill = make_spill();
    if (setting.place != Place::kDram && spill == nullptr) return;
    walk_ = std::make_unique<ZooWalk>(model, walk_setting(), std::move(spill));
  }

  /// False where this system has no such back end.
  bool is_there() const { return walk_ != nullptr; }
  std::string_view io_name() { return cache().store().transfers()->io().name(); }
  KvCache& cache() { return walk_->cache(); }
  Walk& walk() { return walk_->walk(); }
  Sequence sequence() { return walk_->sequence(); }
  Logits feed(Sequence& sequence, std::span<const int32_t> tokens, uint32_t first_rows = 0,
              Attention attention = Attention::kExact) {
    return walk_->feed(sequence, tokens, first_rows, attention);
  }
  Logits feed_all(std::span<const int32_t> tokens) { return walk_->feed_all(tokens); }
  Logits step(std::span<const StepRow> rows, Attention attention) {
    return walk_->step(rows, attention);
  }

  /// Moves three quarters of what is in DRAM out of it.
  void evict_most() {
    const tiers::BlockPool& pool = cache().pool();
    EXPECT_TRUE(cache().store().make_room(pool.n_slots() * 3 / 4));
  }

  // Of a simulated disk.
  uint64_t n_faults() const { return disk_->injected_total() + block_disk_->injected_total(); }
  /// Flips a bit in every sector of what was written.
  void damage_all() {
    const auto bytes = disk_->medium(file_);
    for (size_t at = 0; at < bytes.size(); at += tiers::SimulatedMedium::kSectorBytes)
      bytes[at] ^= std::byte{1};
  }
  /// Every read of single blocks from now on takes SimulatedDisk::stall longer; and no more, once
  /// that long has passed. Both return the time before.
  std::chrono::nanoseconds stall_blocks() {
    block_disk_->set_faults({.stall = 1});
    return block_disk_->now();
  }
  std::chrono::nanoseconds answer_blocks() {
    const auto now = block_disk_->now();
    block_disk_->set_faults({});
    block_disk_->advance(setting_.disk.stall);
    return now;
  }
  /// The next n reads of single blocks never end, and steps are stopped that long from now.
  void hang_and_stop(uint32_t n, std::chrono::seconds after) {
    for (uint32_t i = 0; i < n; ++i)
      block_disk_->fail_nth(block_disk_->n_submitted() + i, tiers::FaultKind::kHang);
    stop_->stop_at(block_disk_->now() + after);
    walk().set_cancel(&stop_->flag());
  }
  /// Of the reads of single blocks, n behind the next `after` end in EIO; so do those that repeat
  /// them where n exceeds the frames.
  void fail_blocks(uint64_t after, uint64_t n) {
    for (uint64_t i = after; i < after + n; ++i)
      block_disk_->fail_nth(block_disk_->n_submitted() + i, tiers::FaultKind::kReadError);
  }
  /// Every one ends in EIO, or none.
  void break_blocks(bool is_broken) {
    block_disk_->set_faults({.read_error = is_broken ? 1.0 : 0.0});
  }
  /// Requests to the file of extents so far; and which of them, counted from 0, are writes that
  /// will fail.
  uint64_t n_requests() const { return disk_->n_submitted(); }
  void fail_writes(uint64_t first, uint64_t n) {
    for (uint64_t i = first; i < first + n; ++i) disk_->fail_nth(i, tiers::FaultKind::kWriteError);
  }
  void go_on() { walk().set_cancel(nullptr); }

 private:
  static constexpr uint32_t kPlaces = 512, kFrames = 48;

  uint64_t place() const {
    return place_bytes(model_.shape(), {.k_codec = setting_.codec, .v_codec = setting_.codec});
  }
  WalkSetting walk_setting() const {
    WalkSetting of;
    of.kernels = cpu_attn::available_kernels().back();
    of.n_threads = setting_.n_threads;
    of.chunk_rows = setting_.chunk_rows;
    of.k_codec = of.v_codec = setting_.codec;
    of.n_ctx = setting_.n_ctx;
    of.n_sequences = setting_.n_sequences;
    of.method = setting_.method;
    of.rule.budget = setting_.budget;
    of.rule.residency_tolerance = setting_.residency_tolerance;
    of.rule.layers = setting_.layers;
    if (setting_.place != Place::kDram)
      of.kv_dram_bytes =
          setting_.n_sequences * kv_bytes_for_context(model_.shape(), of.k_codec, of.v_codec,
                                                      setting_.dram_positions, of.chunk_rows);
    return of;
  }
  /// Null where this system has no such back end.
  std::unique_ptr<tiers::Spill> make_spill() {
    const auto block_bytes =
        KvLayout::make(setting_.codec, setting_.codec, model_.shape().head_dim).block_bytes;
    if (setting_.place == Place::kDram) return nullptr;
    if (setting_.place == Place::kSimulated) return make_simulated(block_bytes);
    const bool is_ring = setting_.place == Place::kUring;
    std::vector<std::string> notices;
    try {
      return tiers::open_spill(
          {.directory = folder_.path(),
           .budget_bytes = kPlaces * place(),
           .place_bytes = place(),
           .n_frames = kFrames,
           .block_bytes = block_bytes,
           .n_block_frames = setting_.n_block_frames,
           .io = is_ring ? tiers::IoChoice::kUring : tiers::IoChoice::kThreads},
          notices);
    } catch (const Error&) {
      if (!is_ring) throw;
      return nullptr;
    }
  }
  std::unique_ptr<tiers::Spill> make_simulated(uint32_t block_bytes) {
    auto made = tiers::testing::make_simulated_spill(setting_.disk, place(), kPlaces, kFrames);
    disk_ = made.disk;
    file_ = made.spill->file;
    auto blocks = std::make_unique<tiers::SimulatedIo>(setting_.disk);
    block_disk_ = blocks.get();
    made.spill->block_file = blocks->add_file_of(*disk_, file_);
    auto stops = std::make_unique<tiers::testing::StopsAt>(std::move(blocks));
    stop_ = stops.get();
    made.spill->block_transfers = std::make_unique<tiers::TransferQueue>(
        std::move(stops),
        tiers::TransferOptions{.frame_bytes = tiers::block_frame_bytes(block_bytes),
                               .n_frames = setting_.n_block_frames});
    return std::move(made.spill);
  }

  SelectedSetting setting_;
  const Model& model_;
  TestFolder folder_;
  tiers::SimulatedIo* disk_ = nullptr;  // all of them live as long as the walk
  tiers::SimulatedIo* block_disk_ = nullptr;
  tiers::testing::StopsAt* stop_ = nullptr;
  tiers::IoFile file_{};
  std::unique_ptr<ZooWalk> walk_;
};

}  // namespace strata::engine::testing
