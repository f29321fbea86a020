// tests/engine/drawn_placement.h - where weights, K and V of a run lie and who reads them, drawn at
// random, and a run that lies so.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "tests/engine/cached_run.h"
#include "tests/engine/disk_of_files.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"
#include "tiers/open_io.h"
#include "tiers/spill.h"

namespace strata::engine::testing {

enum class BackEnd : uint8_t { kSimulated, kThreads, kUring };

struct DrawnPlacement {
  uint64_t seed = 0;  // of the disks
  uint32_t n_threads = 1;
  uint32_t chunk_rows = 64;
  uint32_t n_ctx = 0;
  // Weights.
  std::vector<PieceSet> streamed = {};  // per layer; empty: all stay
  LoadMode load = LoadMode::kMapped;
  BackEnd weight_io = BackEnd::kThreads;
  double weight_errors = 0;  // of a simulated disk: the share of reads that fail
  // K and V.
  std::optional<double> dram_share =
      {};  // 0 = the least that runs, 1 = all; nothing: none is spilled
  BackEnd kv_io = BackEnd::kThreads;
  bool is_kv_disk_faulty = false;
  double kv_bit_flips = 0;  // of such a disk, where its own share of reads is too small
  uint32_t n_saved = 0;     // positions at the beginning that are restored, where they were saved

  bool streams() const { return !streamed.empty(); }
};

inline std::string placement_text(const DrawnPlacement& of) {
  const auto name = [](BackEnd end) {
    return std::string(end == BackEnd::kSimulated ? "simulated"
                       : end == BackEnd::kThreads ? "threads"
                                                  : "ring");
  };
  std::string text = std::to_string(of.n_threads) + " threads, chunks of " +
                     std::to_string(of.chunk_rows) + ", context " + std::to_string(of.n_ctx);
  if (of.streams()) {
    text += ", weights by " + name(of.weight_io) + ":";
    for (const PieceSet& pieces : of.streamed)
      text += pieces.is_whole() ? " L" : pieces.attention ? " A" : pieces.ffn ? " F" : " -";
    text += ", errors " + std::to_string(of.weight_errors);
  }
  if (of.dram_share)
    text += ", K and V by " + name(of.kv_io) + " with " + std::to_string(*of.dram_share) +
            " of DRAM" + (of.is_kv_disk_faulty ? ", faulty" : "");
  return text + ", " + std::to_string(of.n_saved) + " restored";
}

/// A model of the zoo, a text, its logits with everything in DRAM, and the saved text.
class PlacedText {
 public:
  PlacedText(const makers::ZooMember& listed, std::mt19937_64& random)
      : member_(listed.model.name) {
    const std::array codecs = {KvCodec::kF16, KvCodec::kQ8_0};
    setting_.kernels = cpu_attn::available_kernels().back();
    const size_t n_codecs = member_.model.shape().head_dim % 32 == 0 ? 2 : 1;  // q8_0 has groups
    setting_.k_codec = codecs[random() % n_codecs];
    setting_.v_codec = codecs[random() % n_codecs];
    setting_.n_ctx = kTokensMax;
    text_ = member_.text(kTokensMax, static_cast<uint32_t>(random()));
    CachedRun run(member_, folder_, {}, setting_);
    whole_ = run.read(text_);  // of which nothing is saved yet
    run.finish();
  }
  std::string name() const {
    return member_.member.model.name + ", K " + std::string(kv_codec_name(setting_.k_codec)) +
           ", V " + std::string(kv_codec_name(setting_.v_codec));
  }
  std::span<const int32_t> tokens() const { return text_; }
  std::span<const std::vector<float>> logits() const { return whole_; }
  const LoadedMember& member() const { return member_; }
  const WalkSetting& setting() const { return setting_; }
  std::string saved_folder() const { return folder_.path("contexts"); }

  static constexpr uint32_t kTokensMax = 2400;

 private:
  LoadedMember member_;
  WalkSetting setting_;
  TestFolder folder_;
  std::vector<int32_t> text_;
  Logits whole_;
};

/// A walk over the text's model that lies as the placement says.
class PlacedWalk {
 public:
  PlacedWalk(const PlacedText& text, const DrawnPlacement& placement)
      : text_(text),
        placement_(placement),
        model_(load()),
        walk_(model_, walk_setting(), make_spill()),
        contexts_({.directory = text.saved_folder(), .limits = {}, .saves = false}, walk_.cache(),
                  kCachedModel, "test"),
        sequence_(walk_.sequence()) {}

  /// Of the first n positions, what is saved. Returns how many that are: none where a faulty disk
  /// fails both reads of what is read at once, and all is computed, as `strata run` does then.
  uint32_t restore(uint32_t n) {
    try {
      sequence_ = contexts_.restore(walk_.cache(), text_.tokens().first(n));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo || !placement_.is_kv_disk_faulty) throw;
    }
    return sequence_.n_pos();
  }
  /// The next n positions in one step, again where a read of weights failed.
  Logits step(uint32_t n) {
    std::vector<StepRow> rows;
    for (const int32_t token : text_.tokens().subspan(sequence_.n_pos(), n))
      rows.push_back({&sequence_, token, true});
    for (uint32_t n_tries = 1;; ++n_tries) {
      try {
        return walk_.step(rows);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kIo || placement_.weight_errors == 0 || n_tries == kTriesMax)
          throw;
        ++n_failed_steps_;
      }
    }
  }
  uint32_t n_pos() const { return sequence_.n_pos(); }
  const Model& model() const { return model_; }
  const tiers::StoreCounts& store() { return walk_.cache().store().counts(); }
  uint64_t n_failed_steps() const { return n_failed_steps_; }
  uint64_t n_kv_faults() const { return kv_disk_ == nullptr ? 0 : kv_disk_->injected_total(); }
  bool has_corrupt_packs() const { return contexts_.counts().damaged_packs > 0; }

 private:
  static constexpr uint32_t kTriesMax = 100;

  static std::unique_ptr<tiers::Io> open(BackEnd end, uint32_t depth) {
    std::string notice;
    return tiers::open_io(
        end == BackEnd::kUring ? tiers::IoChoice::kUring : tiers::IoChoice::kThreads, depth,
        notice);
  }
  Model load() const {
    WeightOptions options;
    options.load = placement_.load;
    const GgufFile& file = text_.member().file;
    if (placement_.streams())
      options.plan = weight_plan_of(weight_sizes(file, read_model_spec(file)), placement_.streamed);
    options.make_io = [this](uint32_t depth) -> std::unique_ptr<tiers::Io> {
      if (placement_.weight_io != BackEnd::kSimulated) return open(placement_.weight_io, depth);
      tiers::SimulatedDisk disk{
          .seed = placement_.seed, .depth = depth, .latency_spread = std::chrono::milliseconds(1)};
      disk.faults = {.short_read = 0.02, .read_error = placement_.weight_errors, .stall = 0.01};
      return std::make_unique<DiskOfFiles>(disk);
    };
    ThreadPool pool(1);
    return Model::load(file, read_model_spec(file), pool, {}, options);
  }
  KvPlacement kv_placement() const {
    const ModelShape& shape = text_.member().model.shape();
    const KvContext context{.k_codec = text_.setting().k_codec,
                            .v_codec = text_.setting().v_codec,
                            .n_ctx = placement_.n_ctx,
                            .chunk_rows = placement_.chunk_rows,
                            .has_packs = true};
    const KvPlacement whole = place_whole(shape, context);
    if (!placement_.dram_share || !can_spill(shape)) return whole;
    const uint64_t least = smallest_spilling_dram(shape, context);
    const uint64_t most = std::max(least, whole.dram_bytes());
    return place_spilling(
        shape, context,
        least + static_cast<uint64_t>(*placement_.dram_share * static_cast<double>(most - least)));
  }
  WalkSetting walk_setting() const {
    WalkSetting of = text_.setting();
    of.n_threads = placement_.n_threads;
    of.chunk_rows = placement_.chunk_rows;
    of.n_ctx = placement_.n_ctx;
    of.kv_dram_bytes = kv_placement().slot_bytes;
    return of;
  }
  /// Null where nothing can be read back.
  std::unique_ptr<tiers::Spill> make_spill() {
    const KvPlacement of = kv_placement();
    if (of.n_frames == 0) return nullptr;
    if (placement_.kv_io != BackEnd::kSimulated) {
      std::vector<std::string> notices;
      return tiers::open_spill(
          {.directory = of.is_spilling() ? folder_.path() : "",
           .budget_bytes = of.nvme_bytes,
           .place_bytes = of.place_bytes,
           .n_frames = of.n_frames,
           .io = placement_.kv_io == BackEnd::kUring ? tiers::IoChoice::kUring
                                                     : tiers::IoChoice::kThreads},
          notices);
    }
    tiers::SimulatedDisk settings{.seed = placement_.seed,
                                  .latency_spread = std::chrono::milliseconds(1)};
    if (placement_.is_kv_disk_faulty) settings = tiers::testing::faulty_disk(placement_.seed);
    settings.faults.bit_flip = std::max(settings.faults.bit_flip, placement_.kv_bit_flips);
    auto disk = std::make_unique<DiskOfFiles>(settings);
    kv_disk_ = &disk->disk();
    auto spill = std::make_unique<tiers::Spill>();
    if (of.is_spilling()) {
      spill->places = std::make_unique<tiers::testing::CountedPlaces>(
          of.place_bytes, static_cast<uint32_t>(of.nvme_bytes / of.place_bytes));
      spill->file = kv_disk_->add_memory_file(of.nvme_bytes);
    }
    spill->transfers = std::make_unique<tiers::TransferQueue>(
        std::move(disk),
        tiers::TransferOptions{.frame_bytes = of.place_bytes, .n_frames = of.n_frames});
    return spill;
  }

  const PlacedText& text_;
  const DrawnPlacement placement_;
  TestFolder folder_;
  tiers::SimulatedIo* kv_disk_ = nullptr;  // lives as long as the walk
  Model model_;
  ZooWalk walk_;
  ContextCache contexts_;
  Sequence sequence_;
  uint64_t n_failed_steps_ = 0;
};

}  // namespace strata::engine::testing
