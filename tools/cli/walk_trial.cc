#include "tools/cli/walk_trial.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "engine/placement_problem.h"
#include "tools/cli/bench_fill.h"
#include "tools/makers/random_transformer.h"

namespace strata::cli {
namespace {

constexpr uint32_t kGroup = 4;
constexpr uint32_t kVocabulary = 512;

/// A file that is memory, by the name that any program part may open it by.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("strata-trial", MFD_CLOEXEC)) {
    if (fd_ < 0)
      throw Error(ErrorCode::kOutOfMemory, "no memory for a small model", "strata calibrate");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(fd_); }
  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_); }

 private:
  int fd_;
};

/// Partials of weight, so that nothing is divided by 0; their sums are what was there.
void attend_nothing(const AttendArgs& args) {
  std::fill_n(args.m, args.n_queries, 0.0f);
  std::fill_n(args.l, args.n_queries, 1.0f);
}

makers::RandomTransformer model_of(const WalkTrialShape& shape) {
  makers::RandomTransformer model;
  model.n_layers = shape.n_layers;
  model.d_model = shape.width;
  model.d_ff = shape.d_ff;
  model.n_heads = kGroup * shape.n_kv_heads;
  model.n_kv_heads = shape.n_kv_heads;
  model.head_dim = shape.head_dim;
  model.vocab_size = kVocabulary;
  model.n_ctx = shape.n_held + shape.n_tokens;
  // The codec of what is multiplied with most models' matrices: rows become int8.
  model.matrix_types.clear();
  const uint32_t q_width = model.n_heads * model.head_dim;
  for (const uint32_t n_in :
       {shape.width, shape.width, shape.width, q_width, shape.width, shape.width, shape.d_ff})
    model.matrix_types.push_back(n_in % kActGroup == 0 ? TensorType::kQ8_0 : TensorType::kF16);
  model.embedding_type = TensorType::kQ8_0;
  return model;
}

}  // namespace

uint32_t WalkTrial::positions_of(const WalkTrialShape& shape, uint64_t bytes) {
  const uint64_t block_bytes = KvLayout::make(shape.codec, shape.codec, shape.head_dim).block_bytes;
  const uint64_t extent_bytes =
      uint64_t{shape.n_layers} * shape.n_kv_heads * kExtentBlocks * block_bytes;
  return static_cast<uint32_t>(std::max<uint64_t>(1, bytes / extent_bytes)) * kExtentPositions;
}

WalkTrial::WalkTrial(const WalkTrialShape& shape, const KernelTable& kernels, uint32_t n_threads,
                     const std::atomic<bool>* cancel)
    : shape_(shape), kernels_(kernels), partial_(kernels) {
  const MemoryFile file;
  makers::write_random_transformer(model_of(shape), file.path());
  engine::EngineOptions options;
  options.model_path = file.path();
  options.n_ctx = shape.n_held + shape.n_tokens + 2 * kBlockPositions;
  options.n_sequences = 2;
  options.allow_untrained = true;
  options.k_codec = options.v_codec = shape.codec;
  options.n_threads = n_threads;
  options.cpu_isa = kernels.name;
  options.chunk_rows = kReadRowsMax;
  engine_ = std::make_unique<engine::Engine>(engine::Engine::open(options));
  engine_->load({});
  filled_ = std::make_unique<engine::Sequence>(engine_->cache().make_sequence());
  fill_random(*engine_, *filled_, RandomDraw().tokens(shape.n_held, kVocabulary), cancel);
  begin_at(shape.n_held);
}

WalkTrial::~WalkTrial() = default;

void WalkTrial::begin_at(uint32_t n_positions) {
  running_.reset();
  filled_->truncate(n_positions);
  running_ = std::make_unique<engine::Sequence>(filled_->fork());
}

void WalkTrial::decode() {
  token_ = (token_ + 1) % static_cast<int32_t>(kVocabulary);
  const engine::StepRow row{running_.get(), token_, true};
  engine_->walk().step({&row, 1});
  STRATA_CHECK(std::isfinite(engine_->walk().logits(0)[0]), "a logit of a small model is %g",
               double{engine_->walk().logits(0)[0]});
}

void WalkTrial::read(uint32_t n_rows, ReadWork work) {
  partial_.linear = [](const LinearArgs&) {};
  partial_.attend_segment = work == ReadWork::kRows ? attend_nothing : kernels_.attend_segment;
  if (!reading_)
    reading_ = std::make_unique<engine::Walk>(engine_->model(), engine_->cache(), partial_,
                                              engine_->pool(), kReadRowsMax);
  std::vector<engine::StepRow> rows;
  for (uint32_t row = 0; row < n_rows; ++row)
    rows.push_back({running_.get(), static_cast<int32_t>(row % kVocabulary), false});
  reading_->step(rows);
}

double WalkTrial::attend_flop(uint32_t n_positions, uint32_t n_rows) const {
  const engine::ModelSpec& spec = engine_->spec();
  return n_rows * (n_positions + n_rows / 2.0) * shape_.n_layers *
         engine::attend_flop(spec.shape, spec.shape.layers[0]);
}

double WalkTrial::row_values(uint32_t n_rows) const {
  const engine::ModelSpec& spec = engine_->spec();
  return static_cast<double>(n_rows) * shape_.n_layers *
         static_cast<double>(engine::row_values(spec.shape, spec.shape.layers[0]));
}

uint64_t WalkTrial::kv_bytes(uint32_t n_positions) const {
  return uint64_t{n_positions} * shape_.n_layers * shape_.n_kv_heads *
         kv_position_bytes(engine_->cache().layout());
}

}  // namespace strata::cli
