// engine/weight_loader.h - brings the weights that stay in DRAM from the model file, once.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "base/thread_pool.h"
#include "engine/panel_reader.h"

namespace strata::engine {

enum class LoadMode : uint8_t {
  kAuto,    // what is faster here, by reading some of the weights both ways
  kDirect,  // reads past the page cache
  kMapped,  // through the page cache
};

struct LoadReport {
  LoadMode used = LoadMode::kMapped;  // never kAuto
  std::string_view back_end;          // of direct reads; empty: there were none
  bool is_measured = false;
  double direct_bytes_per_s = 0;  // file bytes, packing included; 0: not measured
  double mapped_bytes_per_s = 0;
};

/// Below it nothing is measured: most in the page cache is taken from it, else it is read past it.
inline constexpr uint64_t kMeasuredBytesMin = uint64_t{128} << 20;

using LoadProgress = std::function<bool(uint64_t done_bytes)>;  // false cancels

/// Makes every read and packs it into `memory`. Errors: kIo, kOutOfMemory, kCancelled.
LoadReport load_panels(const GgufFile& file, std::span<const PanelRead> reads, std::byte* memory,
                       ThreadPool& pool, LoadMode mode, const MakeIo& make_io,
                       std::chrono::milliseconds deadline, const LoadProgress& progress);

}  // namespace strata::engine
