#include "engine/device_walk.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "engine/walk.h"
#include "gpu_attn/decode_step.h"

namespace strata::engine {
namespace {

using gpu_attn::DeviceKvTable;
using gpu_attn::DeviceStep;
using gpu_attn::DeviceStepInputs;

// Rows that want logits in one pass over the output projection.
constexpr uint32_t kLogitRowsMax = kDeviceFewRows;

/// Many rows go through the tensor cores 32 inputs at a time; a model of other widths is walked by
/// few rows.
bool takes_many_rows(const gpu_attn::DeviceModel& model) {
  return std::ranges::all_of(model.layers, [](const gpu_attn::DeviceLayerWeights& layer) {
    return std::ranges::all_of(gpu_attn::kLayerMatrixMembers,
                               [&](auto member) { return (layer.*member).n_in % kActGroup == 0; });
  });
}

gpu_attn::DeviceStepSizes step_sizes(const DeviceFacts& facts, uint64_t n_ctx, uint32_t max_rows) {
  return {.max_rows = max_rows,
          .max_logit_rows = std::min(max_rows, kLogitRowsMax),
          .max_blocks = static_cast<uint32_t>(blocks_for(n_ctx)),
          .n_multiprocessors = facts.n_multiprocessors};
}

}  // namespace

DeviceNeeds device_needs(const gpu_attn::DeviceModel& model, const GgufFile& file,
                         const ModelShape& shape, const DeviceFacts& facts, uint64_t n_ctx,
                         uint64_t kv_bytes, uint32_t max_rows, const index::Rule* rule) {
  DeviceNeeds needs;
  needs.buffer_bytes = DeviceStep::memory_bytes(model, step_sizes(facts, n_ctx, max_rows)) +
                       DeviceKv::table_bytes(shape, n_ctx) +
                       device_aligned(DeviceChooser::memory_bytes(shape, n_ctx));
  needs.head_bytes = device_head_bytes(model, file);
  for (const auto& layer : model.layers) {
    needs.layer_bytes.push_back(gpu_attn::layer_bytes(layer));
    needs.piece_bytes.push_back({gpu_attn::layer_bytes(layer, {.attention = true}),
                                 gpu_attn::layer_bytes(layer, {.ffn = true})});
  }
  needs.kv_bytes = kv_bytes;
  needs.block_bytes = model.kv_layout.block_bytes;
  if (rule != nullptr)
    needs.kv_bytes_min = needs.block_bytes * chosen_on_device_min(shape, n_ctx, *rule, max_rows);
  return needs;
}

void add_index_needs(const ModelShape& shape, const KvLayout& layout, uint64_t n_ctx,
                     uint32_t max_rows, uint32_t n_answers,
                     const std::optional<index::Method>& method, const index::Rule& rule,
                     DeviceNeeds& needs) {
  needs.index_bytes = DeviceIndex::memory_bytes(shape, layout, n_ctx, n_answers, method);
  if (needs.index_bytes == 0) return;
  needs.kv_bytes_chosen =
      std::min(needs.kv_bytes,
               n_answers * needs.block_bytes * chosen_on_device(shape, n_ctx, rule, max_rows));
}

struct DeviceWalk::State {
  State(const OpenDevice& device, const Model& host, gpu_attn::DeviceModel described,
        KvCache& kv_cache, const DevicePlan& device_plan, uint32_t max_rows, uint64_t n_ctx,
        ThreadPool& pool)
      : cache(kv_cache),
        plan(device_plan),
        part_rows(takes_many_rows(described) ? max_rows : kDeviceFewRows),
        sizes(step_sizes(device.facts(), n_ctx, max_rows)),
        stream(Stream::create(device)),
        weights(device, host, std::move(described), plan, pool),
        shares(shares_attention() ? share_attention(cache.shape(), spilling(plan),
                                                    cache.layout().block_bytes, n_ctx, max_rows)
                                  : AttentionShares{}),
        kv(device, cache, plan.kv_bytes, n_ctx, shares.near_blocks),
        chooser(device, cache, kv, stream, n_ctx),
        memory(DeviceBuffer::allocate(device, DeviceStep::memory_bytes(weights.model(), sizes),
                                      "the buffers of a step")),
        step(device.table(), weights.model(), weights.source(), sizes, memory.bytes()),
        host_memory(HostMemory::reserve(
            input_bytes() + logit_bytes() + beside_bytes() +
            (plan.on_cpu.empty() ? 0 : DeviceProducts::host_bytes(cache.shape())))),
        pinned(PinnedMemory::pin(device, {host_memory.data(), host_memory.size()})) {
    if (is_spilling()) cache.store().set_first_victims(first_victims());
    std::byte* const behind_logits = host_memory.data() + input_bytes() + logit_bytes();
    if (shares_attention()) beside.emplace(device, cache.shape(), shares, stream, behind_logits);
    if (!plan.on_cpu.empty())
      products.emplace(device, cache.shape(), plan.on_cpu, stream, pinned,
                       behind_logits + beside_bytes());
    for (uint32_t layer = 0; layer < plan.on_cpu.size(); ++layer)
      cpu_step_bytes += gpu_attn::layer_bytes(weights.model().layers[layer], plan.on_cpu[layer]);
    tables.resize(weights.model().layers.size());
    wanted.reserve(sizes.max_logit_rows);
    if (plan.index_bytes > 0) reserve_index(device, n_ctx);
  }

  /// Rows of the index are in DRAM anyway.
  void reserve_index(const OpenDevice& device, uint64_t n_ctx) {
    try {
      index.emplace(device, cache, n_ctx);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory) throw;
      index_problem = error.what();
      plan.hbm_bytes -= plan.index_bytes;
      plan.index_bytes = 0;
    }
  }

  uint64_t input_bytes() const {
    return round_up(DeviceStepInputs::max_bytes(weights.model(), sizes.max_rows), 256);
  }
  uint64_t logit_bytes() const {
    return round_up(uint64_t{sizes.max_logit_rows} * weights.model().vocab_size * sizeof(float),
                    256);
  }
  uint64_t beside_bytes() const {
    return shares_attention() ? round_up(DeviceBeside::host_bytes(cache.shape()), 256) : 0;
  }
  bool is_spilling() const { return cache.store().has_spill(); }
  bool shares_attention() const { return plan.cpu_share > 0 || is_spilling(); }
  /// What spills no device reads, and each text of those at work has the same room there.
  DevicePlan spilling(DevicePlan of) const {
    if (!is_spilling()) return of;
    of.cpu_share = 1;
    of.kv_bytes /= of.n_texts;
    return of;
  }
  /// What has copies here is read in DRAM by the CPU's chunks alone.
  std::vector<uint32_t> first_victims() const {
    std::vector<uint32_t> end_pos;
    for (uint32_t layer = 0; layer < cache.shape().n_layers; ++layer)
      end_pos.push_back(
          cache.shape().layers[layer].window > 0 ? 0 : shares.near_blocks[layer] * kBlockPositions);
    return end_pos;
  }
  float* logits_memory() const {
    return reinterpret_cast<float*>(host_memory.data() + input_bytes());
  }

  void fill_inputs(const DeviceRows& rows, uint32_t first, uint32_t n_rows);
  void fill_tables(uint32_t first_pos, uint32_t end_block, bool is_mirrored);
  void queue(uint32_t n_rows, std::span<const uint32_t> logit_rows,
             gpu_attn::LayerChooser* layer_chooser = nullptr,
             gpu_attn::HostAttention* host = nullptr, bool cpu_multiplies = false);
  bool is_shared(const DeviceRows& rows, uint32_t n_blocks, bool is_mirrored) const;
  void capture(std::span<const uint32_t> logit_rows);
  void drop_capture() noexcept;
  void queue_captured(uint32_t pos, std::span<const uint32_t> logit_rows);
  void run_parts(const DeviceRows& rows, std::span<float> logits, bool is_mirrored);
  void end_what_is_queued() noexcept;
  void run_part(const DeviceRows& rows, uint32_t first, uint32_t n_rows, bool is_mirrored,
                std::span<const uint32_t> logit_rows, std::span<float> logits);

  KvCache& cache;
  DevicePlan plan;
  uint32_t part_rows;  // that are walked at once
  gpu_attn::DeviceStepSizes sizes;
  Stream stream;
  DeviceWeights weights;
  AttentionShares shares;  // empty where the CPU attends nothing
  DeviceKv kv;
  DeviceChooser chooser;
  std::optional<DeviceIndex> index;  // where it has room for one's rows
  std::string index_problem;
  DeviceBuffer memory;
  DeviceStep step;
  HostMemory host_memory;  // inputs, logits, what is attended beside, what is multiplied
  PinnedMemory pinned;
  std::optional<DeviceBeside> beside;      // where the CPU attends, too
  std::optional<DeviceProducts> products;  // where it multiplies
  uint64_t cpu_step_bytes = 0;             // of weights that it multiplies a part of few rows by
  uint64_t cpu_weight_bytes = 0;           // the same of all so far
  std::vector<DeviceKvTable> tables;       // [n_layers]
  std::vector<uint32_t> wanted;            // rows of a part that want logits
  // A decoded token's step, good for rows at positions [begin, end): the host queues it by one call
  // instead of a dozen per layer.
  Graph token_step;
  uint32_t token_step_begin = 0;
  uint32_t token_step_end = 0;
};

void DeviceWalk::State::fill_inputs(const DeviceRows& rows, uint32_t first, uint32_t n_rows) {
  const gpu_attn::DeviceModel& model = weights.model();
  const DeviceStepInputs inputs(model, n_rows, host_memory.data());
  std::ranges::copy(rows.positions.subspan(first, n_rows), inputs.positions());
  std::fill_n(inputs.tokens(), n_rows, 0);  // the host has embedded them
  for (uint32_t set = 0; set < model.n_rot.size(); ++set) {
    const uint64_t width = model.n_rot[set];
    std::ranges::copy(rows.cos_sin[set].subspan(first * width, n_rows * width),
                      inputs.cos_sin(set));
  }
  const uint64_t width = model.d_model;
  std::ranges::copy(rows.residual.subspan(first * width, n_rows * width), inputs.residual());
}

/// Blocks before end_block; a windowed layer's table begins where its first row's window does.
void DeviceWalk::State::fill_tables(uint32_t first_pos, uint32_t end_block, bool is_mirrored) {
  for (uint32_t layer = 0; layer < tables.size(); ++layer) {
    const uint32_t window = cache.shape().layers[layer].window;
    const uint32_t first_block =
        window == 0 || first_pos + 1 <= window ? 0 : (first_pos + 1 - window) / kBlockPositions;
    const DeviceKvTables of = kv.tables(layer);
    tables[layer] = {.blocks = of.blocks + first_block,
                     .mirror = is_mirrored ? of.homes + first_block : nullptr,
                     .stride = of.stride,
                     .first_block = first_block,
                     .n_blocks = end_block - first_block};
  }
}

void DeviceWalk::State::queue(uint32_t n_rows, std::span<const uint32_t> logit_rows,
                              gpu_attn::LayerChooser* layer_chooser, gpu_attn::HostAttention* host,
                              bool cpu_multiplies) {
  weights.begin_step(stream, cpu_multiplies);
  stream.check(step.queue(stream.get(), {.n_rows = n_rows,
                                         .logit_rows = logit_rows,
                                         .kv = tables,
                                         .inputs = host_memory.data(),
                                         .chooser = layer_chooser,
                                         .host = host,
                                         .products = cpu_multiplies ? &*products : nullptr}),
               "run a step");
  if (cpu_multiplies) cpu_weight_bytes += cpu_step_bytes;
}

/// Or the stream keeps what is queued after it.
void DeviceWalk::State::drop_capture() noexcept {
  try {
    (void)stream.end_capture();
  } catch (const Error&) {
    return;  // what broke the capture is the one to be told
  }
}

void DeviceWalk::State::capture(std::span<const uint32_t> logit_rows) {
  stream.begin_capture();
  try {
    queue(1, logit_rows);
  } catch (...) {
    drop_capture();
    throw;
  }
  token_step = stream.end_capture();
}

/// Whether the CPU attends a part of what the rows do, in the homes of their blocks: so the rows'
/// own K and V must go there, too.
bool DeviceWalk::State::is_shared(const DeviceRows& rows, uint32_t n_blocks,
                                  bool is_mirrored) const {
  return beside && rows.attender != nullptr && rows.chooser == nullptr && is_mirrored &&
         beside->has_part(n_blocks);
}

/// Attention is cut for the blocks that the text has at the end of the range, and windowed layers
/// look at those of all of it: so the range is short beside the text.
void DeviceWalk::State::queue_captured(uint32_t pos, std::span<const uint32_t> logit_rows) {
  if (pos < token_step_begin || pos >= token_step_end) {
    const auto n_blocks = static_cast<uint32_t>(blocks_for(uint64_t{pos} + 1));
    const uint32_t end_block = std::min(gpu_attn::captured_blocks(n_blocks), sizes.max_blocks);
    fill_tables(pos, end_block, true);
    token_step_end = 0;
    capture(logit_rows);
    token_step_begin = pos;
    token_step_end = end_block * kBlockPositions;
  }
  stream.run(token_step);
}

/// What is queued reads memory that the next step writes. Of a device that is lost nothing ends.
void DeviceWalk::State::end_what_is_queued() noexcept {
  try {
    stream.wait();
    weights.leave();
  } catch (const Error&) {
    return;  // the step's own error is the one to be told
  }
}

void DeviceWalk::State::run_part(const DeviceRows& rows, uint32_t first, uint32_t n_rows,
                                 bool is_mirrored, std::span<const uint32_t> logit_rows,
                                 std::span<float> logits) {
  fill_inputs(rows, first, n_rows);
  const uint32_t first_pos = rows.positions[first];
  const bool chooses = rows.chooser != nullptr;
  const auto n_blocks = static_cast<uint32_t>(blocks_for(uint64_t{first_pos} + n_rows));
  const bool shares_rows = is_shared(rows, n_blocks, is_mirrored);
  // Then weights pass, so that no step is captured.
  const bool multiplies = products && rows.multiplier != nullptr && n_rows <= kDeviceFewRows;
  if (n_rows == 1 && logit_rows.size() == 1 && plan.n_streamed() == 0 && !chooses && !shares_rows) {
    queue_captured(first_pos, logit_rows);
  } else {
    fill_tables(first_pos, n_blocks, is_mirrored);
    if (chooses)
      chooser.begin(*rows.chooser, index ? &*index : nullptr, first,
                    rows.positions.subspan(first, n_rows));
    struct Ending {  // however the rows end
      DeviceBeside* beside;
      DeviceProducts* products;
      ~Ending() {
        if (beside != nullptr) beside->end();
        if (products != nullptr) products->use(nullptr);
      }
    } const ending{shares_rows ? &*beside : nullptr, multiplies ? &*products : nullptr};
    if (shares_rows) beside->begin(*rows.attender, first, n_blocks);
    if (multiplies) products->use(rows.multiplier);
    queue(n_rows, logit_rows, chooses ? &chooser : nullptr, shares_rows ? &*beside : nullptr,
          multiplies);
  }
  if (!logits.empty()) stream.copy(logits_memory(), step.logits(), logits.size_bytes());
  weights.wait(stream);
  std::copy_n(logits_memory(), logits.size(), logits.data());
}

DeviceWalk::DeviceWalk(const OpenDevice& device, const Model& model,
                       gpu_attn::DeviceModel described, KvCache& cache, const DevicePlan& plan,
                       uint32_t max_rows, uint64_t n_ctx, ThreadPool& pool)
    : state_(std::make_unique<State>(device, model, std::move(described), cache, plan, max_rows,
                                     n_ctx, pool)) {}
DeviceWalk::~DeviceWalk() = default;

const DevicePlan& DeviceWalk::plan() const { return state_->plan; }
bool DeviceWalk::has_copy(tiers::BlockId block) const { return state_->kv.has_copy(block); }
bool DeviceWalk::is_spilling() const { return state_->is_spilling(); }
uint32_t DeviceWalk::first_cpu_pos(uint32_t layer, uint32_t end_pos) const {
  const auto n_blocks = static_cast<uint32_t>(blocks_for(end_pos));
  return state_->shares.device_blocks(layer, n_blocks) * kBlockPositions;
}
bool DeviceWalk::has_cpu_part(uint32_t end_pos) const {
  return is_spilling() && state_->beside->has_part(static_cast<uint32_t>(blocks_for(end_pos)));
}
void DeviceWalk::leave_rows(const Sequence& sequence) { state_->kv.leave_rows(sequence); }
void DeviceWalk::leave_weights() { state_->weights.leave(); }
const DeviceKvCounts& DeviceWalk::kv_counts() const { return state_->kv.counts(); }
uint64_t DeviceWalk::streamed_bytes() const { return state_->weights.streamed_bytes(); }
uint64_t DeviceWalk::cpu_weight_bytes() const { return state_->cpu_weight_bytes; }
DeviceIndexCounts DeviceWalk::index_counts() const {
  return state_->index ? state_->index->counts() : DeviceIndexCounts{};
}
const std::string& DeviceWalk::index_problem() const { return state_->index_problem; }

/// Rows with more logits than one pass gives are walked in parts, each as its predecessor's next.
void DeviceWalk::State::run_parts(const DeviceRows& rows, std::span<float> logits,
                                  bool is_mirrored) {
  const auto n_rows = static_cast<uint32_t>(rows.positions.size());
  const uint64_t vocab_size = weights.model().vocab_size;
  const uint32_t most_rows = rows.chooser != nullptr ? kDeviceFewRows : part_rows;
  uint32_t n_logits = 0;
  for (uint32_t first = 0, end = 0; first < n_rows; first = end) {
    const uint32_t begin_logits = n_logits;
    wanted.clear();
    end = std::min(n_rows, first + most_rows);
    for (; n_logits < rows.logit_rows.size() && rows.logit_rows[n_logits] < end; ++n_logits) {
      if (wanted.size() == sizes.max_logit_rows) {
        end = rows.logit_rows[n_logits - 1] + 1;
        break;
      }
      wanted.push_back(rows.logit_rows[n_logits] - first);
    }
    run_part(rows, first, end - first, is_mirrored, wanted,
             logits.subspan(begin_logits * vocab_size, wanted.size() * vocab_size));
  }
}

void DeviceWalk::run(const DeviceRows& rows, std::span<float> logits) {
  State& s = *state_;
  const auto n_rows = static_cast<uint32_t>(rows.positions.size());
  const bool is_mirrored = n_rows <= kDeviceFewRows || rows.chooser != nullptr;
  struct Ending {  // however the rows end
    DeviceWeights& weights;
    ~Ending() { weights.use(nullptr); }
  } const ending{s.weights};
  s.weights.use(rows.taker);
  try {
    s.kv.begin_step(s.stream, *rows.sequence, n_rows, rows.chooser != nullptr);
    if (s.index && rows.chooser != nullptr) s.index->begin_step(s.stream, *rows.sequence);
    const auto n_blocks = static_cast<uint32_t>(blocks_for(uint64_t{rows.positions.back()} + 1));
    const bool is_shared = s.is_shared(rows, n_blocks, is_mirrored);
    if (rows.chooser == nullptr) s.kv.attend_all(is_shared ? s.beside->n_cpu_blocks(n_blocks) : 0);
    s.run_parts(rows, logits, is_mirrored);
    s.kv.end_step(s.stream, is_mirrored);
    s.stream.wait();
  } catch (...) {
    s.end_what_is_queued();
    throw;
  }
}

}  // namespace strata::engine
