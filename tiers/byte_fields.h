// tiers/byte_fields.h - fields of saved files, little-endian, written and read one after another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "tiers/block_tag.h"

namespace strata::tiers {

/// Appends fields to a growing row of bytes.
class FieldWriter {
 public:
  template <typename T>
  requires std::is_integral_v<T>
  void put(T value) {
    auto bits = static_cast<uint64_t>(value);
    for (size_t i = 0; i < sizeof(T); ++i, bits >>= 8)
      bytes_.push_back(static_cast<std::byte>(bits & 0xff));
  }
  void put(const Hash128& hash) {
    put(hash.low);
    put(hash.high);
  }
  void put_bytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }

  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads fields from borrowed bytes. Errors: kBadFile, naming `file`, where the bytes end before a
/// field does; nothing is read past them.
class FieldReader {
 public:
  FieldReader(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), file_(file) {}

  template <typename T>
  requires std::is_integral_v<T> T take() {
    uint64_t bits = 0;
    const auto field = take_bytes(sizeof(T));
    for (size_t i = 0; i < sizeof(T); ++i) bits |= std::to_integer<uint64_t>(field[i]) << (8 * i);
    return static_cast<T>(bits);
  }
  Hash128 take_hash() {
    Hash128 hash;
    hash.low = take<uint64_t>();
    hash.high = take<uint64_t>();
    return hash;
  }
  std::span<const std::byte> take_bytes(uint64_t n) {
    if (n > n_left())
      throw Error(ErrorCode::kBadFile,
                  "a field of " + std::to_string(n) + " bytes, where " + std::to_string(n_left()) +
                      " are left",
                  file_, "Remove the file; what it held will be computed again.");
    const auto field = bytes_.subspan(at_, static_cast<size_t>(n));
    at_ += static_cast<size_t>(n);
    return field;
  }
  uint64_t n_left() const { return bytes_.size() - at_; }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  size_t at_ = 0;
};

}  // namespace strata::tiers
