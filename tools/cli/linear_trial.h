// tools/cli/linear_trial.h - a linear layer over random weights, to be timed: many copies of one
// matrix, so that one row reads weights that no cache holds, and a prompt's rows over the first.
#pragma once

#include <cstdint>
#include <vector>

#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "base/thread_pool.h"

namespace strata::cli {

struct LinearTrialSizes {
  uint32_t n_out = 2048, n_in = 2048;           // n_in: whole blocks of the type
  uint32_t n_rows = 256;                        // of the prompt's chunk, at least 4
  uint64_t memory_bytes = uint64_t{128} << 20;  // of the copies
};

class LinearTrial {
 public:
  LinearTrial(const KernelTable& kernels, TensorType type, const LinearTrialSizes& sizes);

  /// Whether the first rows have the bits of the scalar kernel.
  bool is_right();
  /// Bytes of weights that decode() reads: all copies, as packed.
  uint64_t decode_bytes() const { return n_copies_ * w_.total_bytes(); }
  /// Operations of prefill(); multiply and add count as two.
  double prefill_flops() const { return 2.0 * sizes_.n_rows * w_.n_out * w_.n_in; }

  /// One copy, or a pass over all of them; each is split over the threads as the walk does.
  /// n_rows <= 4.
  uint64_t n_copies() const { return n_copies_; }
  void decode_copy(ThreadPool& pool, uint64_t copy, uint32_t n_rows = 1);
  void decode(ThreadPool& pool, uint32_t n_rows = 1);
  void prefill(ThreadPool& pool);

  /// The matrix as a file holds it; packing it again into one of the copies by all threads, as
  /// weights are that come from a file in every step.
  uint64_t file_bytes() const { return file_.size(); }
  void pack_copy(ThreadPool& pool, uint64_t copy);
  /// All copies anew by this thread, n_copies() * file_bytes() bytes: packed; packed by the
  /// reference, a lane at a time; or the file's rows as they are, which is what packing can cost at
  /// least and leaves no weights to multiply with.
  void pack_all();
  void pack_all_by_lanes();
  void copy_all();
  const PackedMatrix& matrix() const { return w_; }

 private:
  LinearArgs args();
  void run(ThreadPool& pool, const LinearArgs& args);
  void pack_panels(uint64_t copy, uint32_t begin, uint32_t end);
  uint32_t grain(const ThreadPool& pool, uint32_t n_rows) const;

  const KernelTable& kernels_;
  LinearTrialSizes sizes_;
  PackedMatrix w_{};
  uint64_t n_copies_;
  HostMemory memory_;
  std::vector<std::byte> file_;
  std::vector<float> x_, out_, scales_;
  std::vector<int8_t> q_;
  std::vector<int32_t> neg_sums_;
  std::vector<uint32_t> begins_;  // by worker: its first panel, where rows are few
};

/// The matrices of layers, one after the other as a token meets them: seven shapes of one type, all
/// layers' together more than a cache holds.
class LayerTrial {
 public:
  LayerTrial(const KernelTable& kernels, TensorType type, uint64_t memory_bytes);
  uint64_t n_layers() const { return n_layers_; }
  uint64_t layer_bytes() const;  // of weights, as packed
  /// One row through one layer's matrices.
  void decode_layer(ThreadPool& pool, uint64_t layer);

 private:
  uint64_t n_layers_ = 1;
  std::vector<LinearTrial> matrices_;  // each has a copy for every layer
};

}  // namespace strata::cli
