// planner/placement/problem.h - what a placement is chosen for: a model in groups of equal layers,
// a context, the rates of a machine, and what each tier has and must hold.
// Why numbers and not the engine's types: the engine, which knows what it reserves, fills this in
// (engine/placement_problem.h); the planner is a pure function of it.
//
// Units: GB = 1e9 bytes, ms, GB/s, TFLOP/s. Programs in bytes and seconds are solved wrongly.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "base/kv_layout.h"
#include "base/layer_piece.h"

namespace strata::planner {

enum class PlanTier : uint8_t { kHbm, kDram, kNvme };
const char* plan_tier_name(PlanTier tier);  // "hbm", "dram", "nvme", as options spell them

/// Where something may be as far as the user has said.
struct TierSet {
  bool hbm = true, dram = true, nvme = true;
  bool has(PlanTier tier) const {
    return tier == PlanTier::kHbm ? hbm : tier == PlanTier::kDram ? dram : nvme;
  }
  bool operator==(const TierSet&) const = default;
};

TierSet just(PlanTier tier);
/// The only tier, where there is one.
std::optional<PlanTier> only_tier(const TierSet& tiers);

/// Of each piece of a layer, by LayerPiece: where it is, and where it may be.
using PieceTiers = std::array<PlanTier, kLayerPieces>;
using PiecePins = std::array<TierSet, kLayerPieces>;

/// Of one layer, weights that move as a whole.
struct MovedWeights {
  double weight_gb = 0;  // matrices, as kernels read them
  double pack_ms = 0;    // where they come from the file: rows become panels, by the CPU
  // What their reads take, as a share of what so many bytes take that are read in order by large
  // requests: smaller requests move slower, and a file may hold fewer bytes than a kernel reads.
  double weights_read_share = 1;
  // What is read before there is memory to pack it in, as a share; of pieces as much as buffers
  // hold, which may be more than there is.
  double ahead_share = 0;
};

/// A piece of layers that a pin keeps in one tier, apart from the other one.
struct PieceApart : MovedWeights {
  LayerPiece piece = LayerPiece::kFfn;
  PlanTier tier = PlanTier::kDram;
};

/// Layers that are alike in all of this, but for their reads: those are the mean of such as are
/// near each other. What moves is all of a layer's weights, or where there is a piece apart the
/// other one alone, which is counted as the layer; what the CPU and a card compute is of both.
struct LayerGroup : MovedWeights {
  std::vector<uint32_t> layers;  // their numbers, rising
  uint32_t window = 0;           // positions attended; 0 = all
  double cpu_linear_ms = 0;      // one row through all matrices of a layer
  double cpu_gemm_ms = 0;        // one row of a chunk, with its norms, RoPE and activations
  double gemm_tflop = 0;         // one row
  double kv_read_share = 1;      // as weights_read_share, of K and V, one extent each
  double kv_gb = 0;              // of one position, in whole blocks
  double attend_tflop = 0;       // of one row and one position that it attends
  double n_held = 0;             // positions that the cache has room for
  TierSet pin;                   // where the weights may be
  std::optional<PieceApart> apart;

  double n_layers() const { return static_cast<double>(layers.size()); }
  PieceSet moving() const;                                                        // what moves
  double layer_gb() const { return weight_gb + (apart ? apart->weight_gb : 0); }  // both pieces
  bool is_full() const { return window == 0; }
  double attended(double n_positions) const {
    return window == 0 || n_positions < window ? n_positions : window;
  }
};

/// 0 = there is none.
struct PlanRates {
  double cpu_attend = 0, cpu_attend_tflops = 0;
  // Of a layer and of a step that the CPU computes, beside what bytes and operations take; the
  // first of a decoded token attends one row.
  double cpu_layer_ms = 0, cpu_chunk_layer_ms = 0, cpu_step_ms = 0;
  double dram_read = 0;
  double nvme_read = 0, nvme_blocks = 0, nvme_write = 0;  // nvme_blocks: one block per request
  // What the disk's reading costs the CPU at work beside it, and the other way round: ms per ms.
  double nvme_slows_cpu = 0, cpu_slows_nvme = 0;
  double link_in = 0, link_out = 0, hbm_gemv = 0, hbm_attend = 0;
  double gpu_gemm_tflops = 0, gpu_attend_tflops = 0;
  double launch_ms = 0;       // of a layer's kernels
  double round_trip_ms = 0;   // of a layer whose attention needs the host
  double sharing_ms = 0;      // of each time that the CPU works beside a card, beside that
  double nvme_answer_ms = 0;  // of a read that finds the disk idle, beside what its bytes take
  double shared_layer_ms() const { return round_trip_ms + sharing_ms; }
};

inline constexpr double kNoCap = std::numeric_limits<double>::infinity();

/// One combination of what is not left to the linear program: codecs, rows of a chunk, retrieval.
struct PlacementProblem {
  KvCodec k_codec = KvCodec::kF16, v_codec = KvCodec::kF16;
  uint32_t chunk_rows = 512;
  double n_past = 0;               // positions that are there before the prompt
  double n_prompt = 0, n_out = 0;  // tokens
  // Of a full layer's K and V, what a decoded token attends: a share, at most so many positions.
  double touched_share = 1, touched_positions = kNoCap;
  // Of choosing for one token, for each position that the index has rows of: what that takes the
  // CPU where memory does not hold it up, and what it reads of memory.
  double index_position_ms = 0, index_position_gb = 0;
  double index_position_link_gb = 0;  // where the card does: of what it found, to the host

  std::vector<LayerGroup> groups;
  PlanRates rates;
  double head_ms = 0;  // of one token: the output head, a row

  // Budgets, as the user gave them or as the machine has them.
  double hbm_gb = 0, dram_gb = 0, nvme_gb = 0;
  // Of DRAM, at most this for weights and their slots, and for K and V with what moves them.
  double weights_cap_gb = kNoCap, kv_cap_gb = kNoCap;
  // What is allowed. DRAM is the home of all that HBM holds, which is copies; but of weights the
  // model file is, where they may be read from it and DRAM lacks room.
  bool has_device = false;
  bool may_stream = true;         // weights from the model file in every step
  bool may_spill = true;          // K and V of full layers to a file
  bool may_attend_on_cpu = true;  // beside a device
  // There, of full layers' K and V that are not in HBM, what the CPU attends; nothing = as is best.
  std::optional<double> stated_cpu_share = {};
  // There, a token's products with weights that are in DRAM: of each group's layers there a share
  // that is stated; nothing = as is best. A prompt's go to the device.
  bool may_compute_on_cpu = true;
  std::optional<double> stated_products_share = {};
  // All K and V there; on nvme but for windowed layers' and what must stay where they spill.
  std::optional<PlanTier> kv_pin;
  double ttft_max_ms = 0, tpot_max_ms = 0;  // 0 = as it comes

  // What must be there.
  double hbm_fixed_gb = 0;       // a step's buffers
  double hbm_always_gb = 0;      // weights: the output head, vectors
  double hbm_slots_gb = 0;       // where a layer's weights are not in HBM
  double hbm_chosen_gb = 0;      // room for K and V, where they spill: what a layer chooses
  double hbm_index_gb = 0;       // rows of the index, which the card searches; 0: the CPU does
  double dram_fixed_gb = 0;      // a step's buffers
  double always_weights_gb = 0;  // never streamed
  double stream_slots_gb = 0;    // where weights are streamed: layers that pass, reads
  double index_gb = 0;
  double kv_beside_gb = 0;      // in DRAM beside blocks, where nothing spills
  double spill_beside_gb = 0;   // where something does
  double spill_floor_gb = 0;    // least of full layers' blocks in DRAM where they spill
  double spill_file_gb = 0;     // all of them are written through
  double staged_positions = 0;  // of one layer's K and V, that are read before they are attended

  double n_context() const { return n_past + n_prompt + n_out; }
  double n_decode_positions() const { return n_past + n_prompt + n_out / 2; }  // of the mean token
  double index_scan_gb() const { return index_position_gb * n_decode_positions(); }
  bool card_searches() const { return hbm_index_gb > 0; }
  double index_scan_ms() const;  // of who searches
  double index_link_ms() const;  // of what a card has found
  double step_ms() const { return has_device ? 0 : rates.cpu_step_ms; }
  double share_touched() const;  // by the mean token
  double weights_gb() const;     // of the groups, all pieces
  double kv_gb() const;
  double full_kv_gb() const;
  /// Of one layer of the group and one token, where the host chooses what a device attends: queries
  /// come to it and lists go back.
  double choosing_link_ms(const LayerGroup& group) const;
  /// Of one layer and one token beside a device, its products with weights of so many GB: the CPU's
  /// work, and what it costs that rows come to it and go back: before and behind attention, and for
  /// an FFN.
  double cpu_products_ms(const LayerGroup& group, double gb) const;
  double cpu_products_link_ms(PieceSet pieces) const;
  bool may_compute_products() const { return has_device && may_compute_on_cpu; }
  bool may_leave_dram() const { return has_device && may_stream; }  // weights that are in HBM
  /// Whether weights may be in a tier as far as there is one; those of a layer of the group, or
  /// some of its K and V.
  bool may_hold_weights(PlanTier tier) const;
  bool may_hold(const LayerGroup& group, PlanTier tier) const;
  bool may_hold_kv(const LayerGroup& group, PlanTier tier) const;
};

/// Of DRAM's rate: a kernel that reads at more is held up by it.
inline constexpr double kDramBound = 0.8;

/// How quick parts of the machine are now, of what the rates say.
struct MachinePace {
  double dram = 1, disk = 1;
};
/// The problem on that machine: kernels that read weights, K and V at kDramBound of DRAM's rate or
/// more go at its pace, others as they did, up to that share of what it gives now; arithmetic and
/// fixed costs stay.
/// Why not all at its pace: of two readings of DRAM minutes apart one gave 0.57 of the other, and
/// tokens, whose kernels read at half of DRAM's rate, took 3.2 ms beside it, 3.9 beside the other.
PlacementProblem at_pace(PlacementProblem problem, const MachinePace& pace);

/// Chunks of a prompt by which its time is summed: a chunk's first position, its rows, and how many
/// chunks it stands for.
struct ChunkSample {
  double first_pos, n_rows, weight;
};
inline constexpr uint32_t kChunkSamples = 8;
/// Every chunk where they are few, else the last one and others at equal distances, by the
/// trapezoid rule. They stand for all chunks and all rows.
std::vector<ChunkSample> chunk_samples(const PlacementProblem& problem);

/// ms that so many GB take; 0 of nothing, and a very long time where the rate is 0.
double transfer_ms(double gb, double gb_per_s);

}  // namespace strata::planner
