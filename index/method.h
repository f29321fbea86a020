// index/method.h - the methods by name, and the making of their indexes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/kernel_table.h"
#include "index/selector.h"
#include "index/tile_memory.h"

namespace strata::index {

enum class Method : uint8_t {
  kOracle,  // exact weights from copies of the keys: what no method can beat; for tests and eval
  kRecent,  // StreamingLLM: sinks and window only, the floor
  kQuest,   // least and largest key per dimension of a page
  kCuboid,  // ArkVale: centre and mean deviation of a page's keys
  kMean,    // mean landmarks of pages
  kPq,      // PQCache: each key by 16 codes of 6 bits
  kRabitq,  // RaBitQ: each key rotated, 3 bits per dimension
  kRabitqTail,   // as kRabitq, and an estimate of what the blocks left out would have added
  kCluster,      // RetroInfer: centroids of a block's keys and how many keys each has
  kClusterTail,  // as kCluster, and an estimate of what the blocks left out would have added
  kSparq,        // SparQ: each key in the dimensions that a query is largest in
};

struct MethodName {
  Method method;
  const char* name;
  const char* help;  // one line
};
std::span<const MethodName> method_names();
/// What rows of this method are called in files, with the version of their bytes: what rows mean
/// must not change under one of them. "" where none are kept: `recent` has none, and those of
/// `oracle` are as large as K and V.
std::string rows_kind(Method method);
/// Errors: kUsage, with the names there are.
Method find_method(std::string_view name);

struct IndexShape {
  KvLayout layout;         // of the blocks observed
  uint32_t n_streams = 0;  // KV heads of all layers that select
  uint32_t n_blocks = 0;   // of the longest sequence, and of all together
  uint32_t n_sequences = 1;
};

/// Whether its selectors estimate what is left out (Selector::has_tail).
bool has_tail(Method method);

/// Whether its selectors give Selector::rotated_codes().
bool has_rotated_codes(Method method);

/// Errors: kUnsupported, where the method has no rows for such blocks.
void check_supported(Method method, const KvLayout& layout);

/// Bytes of index rows that a source reserves: those of one sequence of shape.n_blocks, and two
/// slots per stream and sequence, for a fork that goes its own way. With what sequences of that
/// length hold besides rows: codebooks, and keys sampled for them.
uint64_t index_bytes(Method method, const IndexShape& shape);

/// Beside index_bytes(): by which whoever has copies of rows follows them (TileMemory::edition()).
uint64_t edition_bytes(Method method, const IndexShape& shape);

/// Bytes of a segment of one stream in a file (Selector::segment_bytes), before there is an index.
uint64_t segment_bytes(Method method, const KvLayout& layout);

/// Bytes that choosing for n_queries query heads reads for each position of one stream, of whole
/// segments, before there is an index; of a method that reads what queries ask for
/// (Selector::estimate_bytes), the most.
double scanned_bytes(Method method, const KvLayout& layout, uint32_t n_queries);

/// Makes indexes that share one memory of index_bytes(). One caller at a time.
class SelectorSource {
 public:
  /// Errors: kOutOfMemory, those of check_supported().
  SelectorSource(Method method, const IndexShape& shape, const KernelTable& kernels);
  Method method() const { return method_; }
  uint64_t budget_bytes() const { return index_bytes(method_, shape_); }
  /// Errors: kUnsupported, where the method cannot index keys of this head_dim.
  std::unique_ptr<Selector> make() const;
  /// Where the rows of all its selectors lie; null where the method keeps none.
  const TileMemory* memory() const { return memory_.get(); }

 private:
  Method method_;
  IndexShape shape_;
  const KernelTable& kernels_;
  std::shared_ptr<TileMemory> memory_;  // null where the method keeps no rows
};

}  // namespace strata::index
