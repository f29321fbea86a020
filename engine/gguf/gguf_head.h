// engine/gguf/gguf_head.h - the head of one GGUF file: metadata and tensor infos, checked against
// the file's size. Why: apart from gguf_file.h, so that a file, a shard and bytes in memory
// (fuzzing) go through the same checks. Source: the format's specification (ggml docs/gguf.md, v2
// and v3). Limits and their reasons: docs/file-format.md.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/gguf/gguf_file.h"

namespace strata::engine {

inline constexpr uint64_t kGgufAlignmentDefault = 32;
inline constexpr uint64_t kGgufAlignmentMin = 8;
inline constexpr uint64_t kGgufAlignmentMax = uint64_t{1} << 20;
inline constexpr uint64_t kGgufKeyBytesMax = 65535;
inline constexpr uint64_t kGgufTensorNameBytesMax = 64;
// A whole tokenizer.json is the largest known.
inline constexpr uint64_t kGgufStringBytesMax = uint64_t{64} << 20;
// Of all keys together; a vocabulary of 2^18 brings 2^20.
inline constexpr uint64_t kGgufElementsMax = uint64_t{1} << 24;
inline constexpr uint64_t kGgufKeysMax = uint64_t{1} << 16;
inline constexpr uint64_t kGgufTensorsMax = uint64_t{1} << 18;
inline constexpr uint64_t kGgufHeadBytesMax = uint64_t{256} << 20;
inline constexpr uint32_t kGgufDimensionsMax = 4;

/// Metadata value types, as the file numbers them.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
/// "u8", "string"; "unknown" for a number the format does not define.
std::string_view gguf_type_name(uint32_t number);

/// Text of a file made safe for a message: control bytes and bytes outside ASCII become '?', long
/// text is cut.
std::string printable(std::string_view text);

struct GgufHead {
  uint32_t version = 0;
  uint64_t alignment = kGgufAlignmentDefault;
  uint64_t head_bytes = 0;  // up to and including the last tensor info
  std::vector<std::pair<std::string, GgufValue>> metadata;
  std::map<std::string, uint32_t, std::less<>> key_idx;  // ordered: no input makes it slow
  std::vector<GgufTensor> tensors;                       // shard = 0
  std::map<std::string, uint32_t, std::less<>> tensor_idx;
};

/// Where the bytes of a head come from. `name` goes into every message.
class GgufBytes {
 public:
  GgufBytes(std::string name, uint64_t head_size, uint64_t file_size)
      : name_(std::move(name)), head_size_(head_size), file_size_(file_size) {}
  virtual ~GgufBytes() = default;
  const std::string& name() const { return name_; }
  uint64_t head_size() const { return head_size_; }  // bytes that read() can give
  uint64_t file_size() const { return file_size_; }  // bytes that tensors may lie in
  /// Copies bytes [offset, offset + out.size()), which lie inside head_size().
  virtual void read(uint64_t offset, std::span<std::byte> out) = 0;

 private:
  std::string name_;
  uint64_t head_size_;
  uint64_t file_size_;
};

/// Memory: at most about 32 bytes per byte of the head. Errors: kBadFile, kUnsupported (a tensor
/// type Strata does not decode), each with the key or tensor and the offset of the field that is
/// wrong; kIo (from the source).
GgufHead read_gguf_head(GgufBytes& bytes);

}  // namespace strata::engine
