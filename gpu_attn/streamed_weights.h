// gpu_attn/streamed_weights.h - layers that pass through two slots of the device, a layer ahead of
// the step, whole or a piece of them. Why: what does not fit the device is read across the link
// while other layers compute; two slots keep the link busy as long as computing a layer is shorter
// than copying it.
//
// Of n streamed layers the i-th always goes to slot i mod 2, so that pointers of a captured step
// stay good. After layer i its slot gets layer i + 2, and after the last two the first ones again,
// for the next step. Copies run on a stream of their own, in the order of the slots' release:
//
//   step's stream   .. layer i .. record free[s]   await filled[t]  .. layer i + 1 ..
//   copy stream                   await free[s]    copy layer i + 2 -> slot s   record filled[s]
//
//   filled  what take(i) makes the step wait for: the slot's bytes are layer i's
//   free    what a copy waits for: nothing queued reads the slot's last layer any more
//
// Neither the host nor the copy of another slot waits. A capture holds its own events only, so a
// step to be captured begins and ends settled: settle() makes its stream wait for all copies, those
// for the next step too; also before a graph runs after a step that was not captured. That costs a
// replayed step the wait for its last two copies at its end rather than at the next one's begin;
// the link idles only while the host turns around.
//
// Steps may differ in what passes: a round is one list of it. Each goes round by itself, for the
// next step is mostly of the same; the first step of another round begins with its own copies,
// behind at most two that are of no use to it.
//
// A layer, or a piece of it, that host memory does not hold is brought there first
// (BroughtLayers), one at a time, and copied once it has come: while the host has other things to
// do its copy is not queued, and the copies of others go before it. The host waits in take() alone,
// all that is before the layer being queued, and in leave(); what fails to come ahead of its step
// fails in the take() that needs it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gpu_attn/device_model.h"

namespace strata::gpu_attn {

inline constexpr uint32_t kStreamSlots = 2;

/// A layer's matrices that pass, in pinned host memory, as they shall lie in a slot.
struct StreamedLayer {
  uint32_t layer = 0;
  const std::byte* host = nullptr;
  uint64_t bytes = 0;  // of `host`
  // Multiples of 64, as kLayerMatrixMembers; 0 of a piece that stays.
  std::array<uint64_t, kLayerMatrices> offsets{};
  PieceSet pieces = kWholeLayer;  // that pass
  uint64_t brought_bytes = 0;     // behind `bytes` in a slot: what is brought first

  uint64_t slot_bytes() const { return bytes + brought_bytes; }
};

/// Brings what passes of layers to host memory.
class BroughtLayers {
 public:
  virtual ~BroughtLayers() = default;
  /// A layer's bytes there, pinned, good until release(), which comes before the next take().
  /// Waits until they have come; throws what that throws.
  virtual const std::byte* take(uint32_t layer) = 0;
  virtual void release() = 0;
  /// Whether take() would not wait.
  virtual bool is_there(uint32_t layer) const = 0;
  /// Gets on with what comes, and may wait for it a moment. False: nothing is on its way.
  virtual bool go_on() = 0;
};

/// Bytes of one slot for these layers, a multiple of 256.
uint64_t stream_slot_bytes(const std::vector<StreamedLayer>& streamed);

/// One thread; steps on one stream, or on several that wait for each other. Rounds are numbered as
/// they come, create() makes the first.
class StreamedWeights final : public LayerWeightsSource {
 public:
  /// `layers` holds every layer: shapes and vectors of what is streamed, all of the others; it is
  /// copied. `streamed` ascends. `slots` is kStreamSlots * stream_slot_bytes() of the device that
  /// the caller keeps, as it keeps the host's bytes. The first copies begin at once, but for what
  /// is brought: by `brought`, which is borrowed, and null where nothing is.
  static int create(const DeviceTable& table, Device* device,
                    const std::vector<DeviceLayerWeights>& layers,
                    std::vector<StreamedLayer> streamed, std::byte* slots,
                    std::unique_ptr<StreamedWeights>* made, BroughtLayers* brought = nullptr);
  /// The caller has waited for the streams of its steps, and for copies by wait().
  ~StreamedWeights() override;

  /// A layer that its slot does not hold, after a step that was given up or because it was not
  /// there, is copied now. Throws what bringing it throws: then the step is to be given up.
  int take(DeviceStream* stream, uint32_t layer, const DeviceLayerWeights** weights) override;
  int release(DeviceStream* stream, uint32_t layer) override;
  int settle(DeviceStream* stream) override;
  /// Queues the copies of layers that have been brought meanwhile, and gives back what is copied.
  /// Does not wait.
  int go_on();
  /// Nothing more is brought before the next take(), and what was is given back, once it is copied.
  int leave();
  /// The host waits for all copies.
  int wait();

  /// `streamed` ascends, and fits the slots; may be empty. Returns the round's number.
  uint32_t add_round(std::vector<StreamedLayer> streamed);
  /// Steps queued on `stream` from now on are of this round.
  int begin(DeviceStream* stream, uint32_t round);

  uint64_t queued_bytes() const { return queued_bytes_; }  // of all copies; a captured one once

 private:
  struct Slot {
    std::byte* bytes = nullptr;
    DeviceEvent* filled = nullptr;
    DeviceEvent* free = nullptr;
    const StreamedLayer* holds = nullptr;
    const StreamedLayer* wanted = nullptr;  // in its place, once it is there; `free` is recorded
    uint64_t turn = 0;                      // of those that are wanted: the lower comes first
    bool is_settled = false;                // steps' streams wait for `filled` already
    DeviceLayerWeights weights;
  };
  static constexpr uint32_t kResident = UINT32_MAX;
  struct Round {
    std::vector<StreamedLayer> streamed;
    std::vector<uint32_t> place;  // of a layer in `streamed`, or kResident
  };

  explicit StreamedWeights(const DeviceTable& table) : table_(table) {}
  int open(Device* device);
  int fill(Slot& slot, const StreamedLayer& from, const std::byte* brought);
  int fill_wanted(Slot& slot, bool may_wait);
  int want(DeviceStream* stream, Slot& slot, const StreamedLayer& from);
  int bring(uint32_t layer, const std::byte** bytes);
  const std::byte* bring_ahead(uint32_t layer);
  int give_back();
  int give_back_if_copied();

  const DeviceTable& table_;
  std::vector<DeviceLayerWeights> layers_;
  std::vector<Round> rounds_;
  uint32_t round_ = 0;  // that steps are of
  std::array<Slot, kStreamSlots> slots_;
  DeviceStream* copies_ = nullptr;
  BroughtLayers* brought_ = nullptr;
  DeviceEvent* copied_ = nullptr;  // what was brought last
  bool is_lent_ = false;           // that is not given back yet
  uint64_t n_wanted_ = 0;
  uint64_t queued_bytes_ = 0;
};

}  // namespace strata::gpu_attn
