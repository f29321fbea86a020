// index/method.h - the methods by name, and what a user may ask of one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/kernel_table.h"
#include "index/selector.h"

namespace strata::index {

enum class Method : uint8_t {
  kOracle,  // exact weights from copies of the keys: what no method can beat; for tests and eval
  kRecent,  // StreamingLLM (arXiv 2309.17453): sinks and window only, the floor
  kQuest,   // Quest (arXiv 2406.10774): bounds from the least and largest key per dimension of a page
  kMean,    // mean landmarks of pages, as ShadowKV (arXiv 2410.21465) keeps
  kCuboid,  // ArkVale (NeurIPS 2024): centre and mean deviation of a page's keys
  kPq,      // PQCache (arXiv 2407.12820): product quantisation of keys, 16 sub-spaces of 6 bits
};

struct MethodName {
  Method method;
  const char* name;
  const char* help;  // one line
};
std::span<const MethodName> method_names();
/// Errors: kUsage with the names there are.
Method find_method(std::string_view name);

/// What an index is made for. One for all sequences of a cache: they share its memory.
struct IndexShape {
  KvLayout layout;
  uint32_t n_streams = 0;
  uint64_t budget_bytes = 0;  // of index rows, all sequences together; 0 = index_bytes() of n_blocks
  uint32_t n_blocks = 0;      // of the longest sequence
};

/// Bytes of index rows for one sequence of n_blocks blocks.
uint64_t index_bytes(Method method, const IndexShape& shape);

/// An empty index that shares the shape's memory with all that are forked from it or from which it
/// was made by make_empty(). Errors: kOutOfMemory; kUnsupported where the method has no rows for
/// this head_dim.
std::unique_ptr<Selector> make_selector(Method method, const IndexShape& shape,
                                        const KernelTable& kernels);

}  // namespace strata::index
