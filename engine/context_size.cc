#include "engine/context_size.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>

#include "base/checked_math.h"
#include "base/device_kernels.h"
#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "engine/byte_text.h"
#include "engine/device_beside.h"
#include "engine/device_products.h"
#include "engine/kv_cache.h"
#include "engine/prompt_lookup.h"
#include "engine/walk.h"
#include "tiers/block_store.h"

namespace strata::engine {
namespace {

constexpr uint64_t kMaxContext = std::numeric_limits<int32_t>::max();
constexpr const char* kFreeMemory = "the memory that weights and buffers leave is";
constexpr uint64_t kChunkRowsMin = 32;  // below it a prompt would be read at the pace of decoding
constexpr uint64_t kMaxRopeSets = 2;
constexpr uint64_t kSplitBytesMax = kSplitFloatsMax * sizeof(float);
// That CUDA takes of DRAM for itself, an upper bound: on an H200 all beside weights, K and V stayed
// below 200 MB with chunks of 480 rows.
constexpr uint64_t kDriverBytes = uint64_t{128} << 20;
constexpr uint64_t kRoundingBytes = uint64_t{4} << 20;  // huge pages, alignment of each buffer

uint64_t kv_bytes(const ModelShape& shape, const ContextRequest& request, uint64_t n_ctx) {
  return place_whole(shape, kv_context(request, n_ctx)).dram_bytes();
}

struct WalkBytes {
  uint64_t per_row = 0;
  uint64_t fixed = 0;
};

uint64_t widest_q(const ModelShape& shape) {
  uint64_t n_heads = 0;
  for (const LayerShape& layer : shape.layers) n_heads = std::max<uint64_t>(n_heads, layer.n_heads);
  return n_heads * shape.head_dim;
}

WalkBytes walk_bytes(const ModelShape& shape, uint32_t n_threads) {
  const uint64_t q_width = widest_q(shape);
  uint64_t kv_width = 0, d_ff = 0, n_heads = 0;
  for (const LayerShape& layer : shape.layers) {
    kv_width = std::max<uint64_t>(kv_width, uint64_t{layer.n_kv_heads} * shape.head_dim);
    d_ff = std::max<uint64_t>(d_ff, layer.d_ff);
    n_heads = std::max<uint64_t>(n_heads, layer.n_heads);
  }
  const uint64_t d_model = shape.d_model;
  const uint64_t widest = std::max({d_model, q_width, d_ff});
  constexpr uint64_t kFloat = sizeof(float);
  WalkBytes bytes;
  bytes.per_row = kFloat * (3 * d_model + 3 * q_width + 2 * kv_width + 2 * d_ff + 2 * n_heads) +
                  widest + kFloat * (div_up(widest, kActGroup) + div_up(widest, kActHalfGroup)) +
                  kFloat * kMaxRopeSets * shape.head_dim;
  const uint64_t scratch = attend_scratch_floats(kMaxTileQueries, shape.head_dim) +
                           uint64_t{kMaxTileQueries} * (3 * shape.head_dim + 6);
  const uint64_t block_bytes =
      KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape.head_dim).block_bytes;
  bytes.fixed = n_threads * round_up(kFloat * scratch, 64) + kSplitBytesMax + block_bytes +
                kFloat * shape.vocab_size + kRoundingBytes;
  return bytes;
}

/// Of what is touched while a device computes: rows of the embedding, queries and angles, and what
/// choosing blocks takes.
WalkBytes walk_bytes_on_device(const ModelShape& shape, uint32_t n_threads) {
  WalkBytes bytes = walk_bytes(shape, n_threads);
  bytes.fixed -= kSplitBytesMax;
  bytes.per_row = sizeof(float) * (shape.d_model + widest_q(shape) + kMaxRopeSets * shape.head_dim);
  return bytes;
}

/// What few rows touch where the CPU works beside a device: activations, and of what it attends the
/// partials of spans (engine/walk_attend.cc). What is chosen the device attends. The gate, up and
/// the int8 form's three parts begin somewhere in huge pages of the walk's mapping, and end so.
uint64_t beside_bytes(const ModelShape& shape, const ContextRequest& request, uint64_t n_ctx) {
  constexpr uint64_t kSlices = 5;
  const uint64_t rows = kDeviceFewRows * walk_bytes(shape, request.n_threads).per_row +
                        kSlices * 2 * HostMemory::kGrain;
  if (request.method) return rows;
  const uint64_t n_heads = widest_q(shape) / shape.head_dim;
  const uint64_t n_spans = div_up(n_ctx, uint64_t{kSpanPositions});
  return rows + std::min(kSplitBytesMax, kDeviceFewRows * n_heads * n_spans *
                                             (uint64_t{shape.head_dim} + 2) * sizeof(float));
}

/// Rows whose buffers stay within kWalkBytesMax.
uint32_t fitting_rows(const WalkBytes& bytes) {
  const uint64_t room = kWalkBytesMax - std::min(kWalkBytesMax, bytes.fixed);
  return static_cast<uint32_t>(std::min<uint64_t>(
      UINT32_MAX, std::max(kChunkRowsMin, room / bytes.per_row / kChunkRowsMin * kChunkRowsMin)));
}

/// The largest context up to `limit` whose KV fits `bytes`; 0 where none does. KV grows with n_ctx,
/// so halving finds it.
uint64_t largest_context(const ModelShape& shape, const ContextRequest& request, uint64_t bytes,
                         uint64_t limit) {
  if (limit == 0 || kv_bytes(shape, request, limit) <= bytes) return limit;
  uint64_t fits = 0, exceeds = limit;
  while (exceeds - fits > 1) {
    const uint64_t middle = fits + (exceeds - fits) / 2;
    (kv_bytes(shape, request, middle) <= bytes ? fits : exceeds) = middle;
  }
  // Whole blocks read better in a message and cost nothing.
  return fits > kBlockPositions ? fits / kBlockPositions * kBlockPositions : fits;
}

/// Refuses with the changes that would make `bytes` hold the request.
[[noreturn]] void refuse(const ModelShape& shape, const ContextRequest& request, uint64_t n_ctx,
                         uint64_t bytes, const std::string& holder, bool can_raise) {
  const uint64_t wanted = kv_bytes(shape, request, n_ctx);
  std::string remedy;
  const auto propose = [&](const std::string& change) {
    remedy += (remedy.empty() ? "use " : ", or ") + change;
  };
  const uint64_t smaller = largest_context(shape, request, bytes, n_ctx);
  if (smaller > 0) propose(fmt::format("-c {}", smaller));
  if (can_raise) propose(fmt::format("--kv-dram {}", size_argument(wanted)));
  ContextRequest quantised = request;
  quantised.k_codec = quantised.v_codec = KvCodec::kQ8_0;
  if (shape.head_dim % kScaleGroup == 0 && kv_bytes(shape, quantised, n_ctx) <= bytes)
    propose("-ctk q8_0 -ctv q8_0");
  ContextRequest unsaved = request;
  unsaved.has_packs = false;
  if (request.has_packs && kv_bytes(shape, unsaved, n_ctx) <= bytes) propose("--no-cache");
  if (remedy.empty()) remedy = "free memory or use a smaller model";
  throw Error(ErrorCode::kDoesNotFit,
              fmt::format("a context of {} tokens needs {} for K and V, {} {}", n_ctx,
                          bytes_text(wanted), holder, bytes_text(bytes)),
              "--ctx-size", remedy);
}

/// The largest context up to `limit` that the two budgets hold together; 0 where none does.
uint64_t largest_spilling_context(const ModelShape& shape, const ContextRequest& request,
                                  uint64_t dram_bytes, uint64_t limit) {
  if (request.nvme_bytes == 0 || !can_spill(shape)) return 0;
  const auto fits = [&](uint64_t n_ctx) {
    const KvContext context = kv_context(request, n_ctx);
    return smallest_spilling_dram(shape, context) <= dram_bytes &&
           spill_bytes(shape, context) <= request.nvme_bytes;
  };
  uint64_t n_extents = div_up(limit, kSegmentPositions);
  uint64_t fitting = 0;
  while (fitting < n_extents) {
    const uint64_t middle = fitting + (n_extents - fitting + 1) / 2;
    if (fits(std::min(limit, middle * kSegmentPositions))) {
      fitting = middle;
    } else {
      n_extents = middle - 1;
    }
  }
  return std::min(limit, fitting * kSegmentPositions);
}

/// The changes with which a context spills, or fits without: each alone is enough.
std::string spilling_remedy(const ModelShape& shape, const ContextRequest& request, uint64_t n_ctx,
                            uint64_t dram_bytes, uint64_t free_bytes) {
  std::string remedy;
  const auto propose = [&](const std::string& change) {
    remedy += (remedy.empty() ? "use " : ", or ") + change;
  };
  const uint64_t smallest = smallest_spilling_dram(shape, kv_context(request, n_ctx));
  if (smallest <= free_bytes) propose(fmt::format("--kv-dram {}", size_argument(smallest)));
  ContextRequest narrow = request;
  narrow.chunk_rows = std::min<uint32_t>(request.chunk_rows, kExtentPositions);
  if (smallest_spilling_dram(shape, kv_context(narrow, n_ctx)) <= dram_bytes)
    propose(fmt::format("-b {}", narrow.chunk_rows));
  ContextRequest unsaved = request;
  unsaved.has_packs = false;
  if (request.has_packs && smallest_spilling_dram(shape, kv_context(unsaved, n_ctx)) <= dram_bytes)
    propose("--no-cache");
  const uint64_t smaller = std::max(largest_context(shape, request, dram_bytes, n_ctx),
                                    largest_spilling_context(shape, request, dram_bytes, n_ctx));
  if (smaller > 0) propose(fmt::format("-c {}", smaller));
  return remedy.empty() ? "free memory or use a smaller model" : remedy;
}

/// Divides a context that DRAM does not hold. Errors: kDoesNotFit, naming the budget that is too
/// small and what would do.
KvPlacement spill(const ModelShape& shape, const ContextRequest& request, uint64_t n_ctx,
                  uint64_t dram_bytes, uint64_t free_bytes) {
  const KvContext context = kv_context(request, n_ctx);
  const uint64_t smallest = smallest_spilling_dram(shape, context);
  const uint64_t wanted = spill_bytes(shape, context);
  if (smallest > dram_bytes)
    throw Error(ErrorCode::kDoesNotFit,
                fmt::format("a context of {} tokens needs at least {} of memory for K and V beside "
                            "a spill file, there is {}",
                            n_ctx, bytes_text(smallest), bytes_text(dram_bytes)),
                "--kv-dram", spilling_remedy(shape, request, n_ctx, dram_bytes, free_bytes));
  if (wanted > request.nvme_bytes) {
    const uint64_t smaller = largest_spilling_context(shape, request, dram_bytes, n_ctx);
    throw Error(ErrorCode::kDoesNotFit,
                fmt::format("a context of {} tokens needs {} on disk, the spill file may have {}",
                            n_ctx, bytes_text(wanted), bytes_text(request.nvme_bytes)),
                "--nvme-budget",
                fmt::format("use --nvme-budget {}{}", size_argument(wanted),
                            smaller > 0 ? fmt::format(", or -c {}", smaller) : ""));
  }
  return place_spilling(shape, context, dram_bytes);
}

/// What K and V may have of DRAM, and by whose word.
struct KvShare {
  uint64_t bytes = 0;
  bool is_stated = false;  // by the user: a context that exceeds it spills
  const char* holder = kFreeMemory;
};

KvShare kv_share(const ContextRequest& request, uint64_t free_bytes) {
  if (request.kv_dram_bytes > 0 && request.kv_dram_bytes <= free_bytes)
    return {request.kv_dram_bytes, true, "--kv-dram allows"};
  if (request.is_budgeted) return {free_bytes, true, "--dram leaves"};
  return {free_bytes, false, kFreeMemory};
}

uint64_t choose_context(const ModelShape& shape, const ContextRequest& request,
                        uint64_t free_bytes) {
  const uint64_t limit = std::clamp<uint64_t>(shape.n_ctx_train, 1, kMaxContext);
  KvShare share = kv_share(request, free_bytes);
  if (!share.is_stated && request.kv_dram_bytes == 0) {
    share.bytes = free_bytes / 2;
    share.holder = "half of the memory that weights and buffers leave is";
  }
  const uint64_t n_ctx = largest_context(shape, request, share.bytes, limit);
  if (share.is_stated && n_ctx < limit) {
    const uint64_t spilling = largest_spilling_context(shape, request, share.bytes, limit);
    if (spilling > n_ctx) return spilling;
  }
  if (n_ctx > 0) return n_ctx;
  const uint64_t smallest = std::min<uint64_t>(limit, kBlockPositions);
  refuse(shape, request, smallest, share.bytes, share.holder,
         share.is_stated && kv_bytes(shape, request, smallest) <= free_bytes);
}

}  // namespace

uint32_t chunk_rows_for(const ModelShape& shape, const ContextRequest& request) {
  const auto bytes =
      request.has_device && !request.spills_beside ? walk_bytes_on_device : walk_bytes;
  return std::min(request.chunk_rows, fitting_rows(bytes(shape, request.n_threads)));
}

void check_codecs(const ModelShape& shape, const ContextRequest& request) {
  const bool quantised = request.k_codec == KvCodec::kQ8_0 || request.v_codec == KvCodec::kQ8_0;
  if (!quantised || shape.head_dim % kScaleGroup == 0) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("q8_0 wants a head_dim that is a multiple of 32, the model has {}",
                          shape.head_dim),
              "--cache-type-k, --cache-type-v", "use -ctk f16 -ctv f16");
}

KvContext kv_context(const ContextRequest& request, uint64_t n_ctx) {
  return {request.k_codec,
          request.v_codec,
          n_ctx,
          static_cast<uint32_t>(std::min<uint64_t>(request.chunk_rows, n_ctx)),
          request.has_packs,
          request.method,
          request.has_device,
          request.n_answers,
          request.sparse,
          request.spills_beside};
}

uint64_t walk_buffer_bytes(const ModelShape& shape, uint32_t max_rows, uint32_t n_threads) {
  const WalkBytes bytes = walk_bytes(shape, n_threads);
  return bytes.fixed + max_rows * bytes.per_row;
}

uint64_t device_buffer_bytes(const ModelShape& shape, uint32_t max_rows, bool may_share) {
  constexpr uint64_t kFloat = sizeof(float);
  const uint64_t row = kFloat * (shape.d_model + kMaxRopeSets * shape.head_dim) + sizeof(uint32_t) +
                       sizeof(int32_t);  // position, token
  const uint64_t logits = kFloat * std::min(max_rows, kDeviceFewRows) * shape.vocab_size;
  const uint64_t shared =
      may_share ? DeviceBeside::host_bytes(shape) + DeviceProducts::host_bytes(shape) : 0;
  return max_rows * row + logits + shared + kRoundingBytes;
}

uint64_t buffer_bytes(const ModelShape& shape, const ContextRequest& request) {
  const uint64_t more_logits =
      (uint64_t{request.n_answers - 1} + request.n_draft_max) * shape.vocab_size * sizeof(float);
  const uint64_t n_ctx = request.n_ctx > 0 ? request.n_ctx : shape.n_ctx_train;
  const uint64_t lookups =
      request.n_draft_max > 0 ? request.n_answers * PromptLookup::bytes(n_ctx) : 0;
  const uint32_t cpu_rows =
      std::min(request.chunk_rows, fitting_rows(walk_bytes(shape, request.n_threads)));
  uint64_t of_steps = walk_buffer_bytes(shape, cpu_rows, request.n_threads);
  if (request.spills_beside) {
    of_steps += kDriverBytes + device_buffer_bytes(shape, request.chunk_rows, /*may_share=*/true);
  } else if (request.has_device) {
    const WalkBytes bytes = walk_bytes_on_device(shape, request.n_threads);
    const uint64_t beside = request.may_share ? beside_bytes(shape, request, n_ctx) : 0;
    of_steps = std::max(of_steps,
                        kDriverBytes + bytes.fixed + beside + request.chunk_rows * bytes.per_row +
                            device_buffer_bytes(shape, request.chunk_rows, request.may_share));
  }
  return of_steps + more_logits + lookups;
}

ContextPlan plan_context(const ModelShape& shape, const ContextRequest& asked) {
  check_codecs(shape, asked);
  ContextRequest request = asked;
  request.chunk_rows = chunk_rows_for(shape, asked);
  const uint64_t buffers = buffer_bytes(shape, request);
  const uint64_t taken = request.weight_bytes + buffers;
  const uint64_t free_bytes = request.available_bytes - std::min(request.available_bytes, taken);
  if (free_bytes == 0) {
    // Half of what weights and K and V have between them: a start that works, not the best.
    const uint64_t shared_bytes =
        request.available_bytes - std::min(request.available_bytes, buffers);
    const uint64_t streamed_bytes = std::max(request.weight_bytes_min, shared_bytes / 2);
    const bool can_stream = request.weight_bytes_min > 0 && streamed_bytes < shared_bytes &&
                            streamed_bytes < request.weight_bytes;
    throw Error(
        ErrorCode::kDoesNotFit,
        fmt::format("the weights need {} and buffers {}, {} {}{}", bytes_text(request.weight_bytes),
                    bytes_text(buffers),
                    request.is_budgeted ? "--dram leaves them" : "this machine has",
                    bytes_text(request.available_bytes), request.is_budgeted ? "" : " free"),
        request.is_budgeted ? "--dram" : "--model",
        can_stream ? fmt::format("stream weights from the file with --weights-dram {}, free "
                                 "memory, or use a smaller model or quantisation",
                                 size_argument(streamed_bytes))
                   : "free memory or use a smaller model or quantisation");
  }
  uint64_t n_ctx = request.n_ctx;
  if (n_ctx == 0) {
    n_ctx = choose_context(shape, request, free_bytes);
  } else if (n_ctx > shape.n_ctx_train && !request.allow_untrained) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("wanted a context of {} tokens, the model was trained for {}", n_ctx,
                    shape.n_ctx_train),
        "--ctx-size",
        fmt::format("use -c {}, extend it with --rope-scaling yarn --rope-factor {}, or pass "
                    "--allow-untrained",
                    shape.n_ctx_train,
                    (n_ctx + shape.n_ctx_train - 1) / std::max<uint64_t>(1, shape.n_ctx_train)));
  }
  ContextPlan plan;
  plan.n_ctx = static_cast<uint32_t>(n_ctx);
  plan.chunk_rows = static_cast<uint32_t>(std::min<uint64_t>(request.chunk_rows, n_ctx));
  const uint64_t wanted = kv_bytes(shape, request, n_ctx);
  const KvShare share = kv_share(request, free_bytes);
  if (wanted <= share.bytes) {
    plan.kv = place_whole(shape, kv_context(request, n_ctx));
  } else if (request.nvme_bytes > 0 && can_spill(shape) && request.may_spill_beside &&
             !request.spills_beside) {
    request = asked;
    request.spills_beside = true;
    return plan_context(shape, request);
  } else if (request.nvme_bytes > 0 && can_spill(shape)) {
    plan.kv =
        spill(shape, request, n_ctx, share.is_stated ? share.bytes : free_bytes / 2, free_bytes);
  } else {
    refuse(shape, request, n_ctx, share.bytes, share.holder,
           share.is_stated && wanted <= free_bytes);
  }
  return plan;
}

ContextLengthError::ContextLengthError(uint64_t n_prompt, uint64_t context, std::string remedy)
    : Error(ErrorCode::kContextLengthExceeded,
            fmt::format("context_length_exceeded: the request has {} tokens and exceeds the "
                        "available context size "
                        "of {} tokens (n_prompt_tokens={}, n_ctx={})",
                        n_prompt, context, n_prompt, context),
            "prompt", std::move(remedy)),
      n_prompt_tokens_(n_prompt),
      n_ctx_(context) {}

void check_prompt_fits(uint64_t n_prompt_tokens, uint64_t n_ctx, uint64_t n_ctx_train) {
  if (n_prompt_tokens + 1 <= n_ctx) return;
  const uint64_t wanted = round_up(n_prompt_tokens + 1, kBlockPositions);
  std::string remedy;
  if (wanted <= n_ctx_train) {
    remedy = fmt::format("raise the context to at least -c {}", wanted);
  } else if (n_prompt_tokens + 1 <= n_ctx_train) {
    remedy = fmt::format("raise the context to -c {}", n_ctx_train);
  } else if (n_ctx < n_ctx_train) {
    remedy =
        fmt::format("shorten the prompt to fewer than {} tokens and raise the context to -c {}",
                    n_ctx_train, n_ctx_train);
  } else {
    remedy = fmt::format("shorten the prompt to fewer than {} tokens", n_ctx);
  }
  throw ContextLengthError(n_prompt_tokens, n_ctx, remedy);
}

}  // namespace strata::engine
