// tiers/lease.h - what a caller may hold of a frame: a ticket for a transfer in flight, a lease to
// read what has arrived, a lease to fill what will be written. Move-only; what must not happen
// (copying a right, writing through a read lease, using a ticket twice) does not compile
// (tests/compile_fail). Dropping any of them gives the right back at once and waits for nothing: a
// transfer whose ticket was dropped ends by itself and frees its frame; a read that no device has
// yet never begins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace strata::tiers {

class TransferQueue;

/// A frame and which of its fills the right belongs to.
struct FrameRef {
  uint32_t frame = 0;
  uint32_t generation = 0;
};

namespace detail {

enum class RightKind : uint8_t { kTicket, kRead, kFill };
void give_right_back(TransferQueue& owner, FrameRef ref, RightKind kind) noexcept;

/// What the three have in common: an owner, a frame, and giving it back exactly once.
template <RightKind kKind>
class Right {
 public:
  Right() = default;
  Right(Right&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), ref_(other.ref_) {}
  Right& operator=(Right&& other) noexcept {
    if (this == &other) return *this;
    give_back();
    owner_ = std::exchange(other.owner_, nullptr);
    ref_ = other.ref_;
    return *this;
  }
  Right(const Right&) = delete;
  Right& operator=(const Right&) = delete;
  ~Right() { give_back(); }

  bool is_held() const { return owner_ != nullptr; }

 protected:
  Right(TransferQueue& owner, FrameRef ref) : owner_(&owner), ref_(ref) {}
  FrameRef release() {
    owner_ = nullptr;
    return ref_;
  }
  TransferQueue* owner_ = nullptr;
  FrameRef ref_;

 private:
  void give_back() noexcept {
    if (owner_ != nullptr) give_right_back(*std::exchange(owner_, nullptr), ref_, kKind);
  }
};

}  // namespace detail

/// A transfer in flight.
class [[nodiscard]] Ticket : public detail::Right<detail::RightKind::kTicket> {
 public:
  Ticket() = default;

 private:
  friend class TransferQueue;
  using Right::Right;
};

/// The right to read a frame that a read has filled.
class [[nodiscard]] ReadLease : public detail::Right<detail::RightKind::kRead> {
 public:
  ReadLease() = default;
  /// The bytes that were asked for, while the lease is held; then nothing.
  std::span<const std::byte> bytes() const {
    return is_held() ? bytes_ : std::span<const std::byte>();
  }

 private:
  friend class TransferQueue;
  ReadLease(TransferQueue& owner, FrameRef ref, std::span<const std::byte> bytes)
      : Right(owner, ref), bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

/// The right to fill a frame; TransferQueue::write takes it over.
class [[nodiscard]] FillLease : public detail::Right<detail::RightKind::kFill> {
 public:
  FillLease() = default;
  /// The whole frame, while the lease is held; then nothing.
  std::span<std::byte> bytes() const { return is_held() ? bytes_ : std::span<std::byte>(); }

 private:
  friend class TransferQueue;
  FillLease(TransferQueue& owner, FrameRef ref, std::span<std::byte> bytes)
      : Right(owner, ref), bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

}  // namespace strata::tiers
