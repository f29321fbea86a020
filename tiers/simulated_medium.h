// tiers/simulated_medium.h - the bytes of one simulated file, beside the bytes it ought to have.
// Why: what a disk did wrong silently can only be counted against what an honest one would hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>

namespace strata::tiers {

/// SplitMix64 (Steele, Lea, Flood 2014): the same draws with every standard library.
class SimulatedDraws {
 public:
  explicit SimulatedDraws(uint64_t seed) : state_(seed) {}
  uint64_t next();
  /// In [0, n), n > 0; the bias of the remainder is below n / 2^64.
  uint64_t below(uint64_t n) { return next() % n; }
  double unit();  // in [0, 1)

 private:
  uint64_t state_;
};

/// Zeros that take memory only where they are written, or copied as they grow.
class ZeroedBytes {
 public:
  std::byte* data() { return bytes_.get(); }
  const std::byte* data() const { return bytes_.get(); }
  uint64_t size() const { return size_; }
  void grow(uint64_t bytes);  // to that size, at least the one it has

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte[], Free> bytes_;
  uint64_t size_ = 0;
  uint64_t capacity_ = 0;
};

/// Offsets and lengths lie within size(): the caller extends first. Twice the bytes that were
/// written in DRAM.
class SimulatedMedium {
 public:
  static constexpr uint64_t kSectorBytes = 512;  // what a power cut or a bad cache cannot split

  explicit SimulatedMedium(uint32_t alignment) : alignment_(alignment) {}

  uint32_t alignment() const { return alignment_; }
  uint64_t size() const { return medium_.size(); }
  /// Adds zeros up to `bytes`; no file shrinks.
  void extend_to(uint64_t bytes);

  void read(uint64_t offset, std::span<std::byte> memory) const;
  /// Whether an honest disk would hold these bytes there.
  bool is_honest(uint64_t offset, std::span<const std::byte> memory) const;

  void write(uint64_t offset, std::span<const std::byte> memory);
  /// Reported as done: the medium keeps what it had.
  void write_nowhere(uint64_t offset, std::span<const std::byte> memory);
  /// Reported as done at `offset`: the bytes went to `place`.
  void write_elsewhere(uint64_t offset, uint64_t place, std::span<const std::byte> memory);
  /// Reported as done: at least one sector is new and at least one is not. False, and written
  /// whole, where there is only one.
  bool write_torn(uint64_t offset, std::span<const std::byte> memory, SimulatedDraws& draws);
  /// Reported as failed: each sector is new or not. Who is told trusts neither, so that whatever
  /// is there now counts as honest.
  void write_in_part(uint64_t offset, std::span<const std::byte> memory, SimulatedDraws& draws);

  /// Another place of that length, on the grid on which the first one lies: a whole other block
  /// where blocks have one size. Nothing where the file has no other.
  std::optional<uint64_t> other_place(uint64_t offset, uint64_t bytes, SimulatedDraws& draws) const;

  std::span<std::byte> bytes() { return {medium_.data(), medium_.size()}; }

 private:
  uint32_t alignment_;
  ZeroedBytes medium_;
  ZeroedBytes honest_;  // what the medium would hold had every success been true
};

}  // namespace strata::tiers
