// tools/serve/socket_stream.h - bytes from and to a client's socket, with deadlines and a bound on
// what is read.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tools/serve/http_message.h"

namespace strata::serve {

/// Borrows the descriptor. Threads: one; is_gone() from any.
class SocketStream final : public HttpClient {
 public:
  using Clock = std::chrono::steady_clock;

  /// Reads so many bytes ahead at most, which is also what a head may have.
  SocketStream(int descriptor, uint64_t buffer_bytes)
      : descriptor_(descriptor), buffer_(buffer_bytes) {}

  /// Waits for the first byte of a request; false where none came.
  bool wait_request(std::chrono::milliseconds time);
  /// Waits until a whole head lies in the buffer, and returns its size. 0 = none came: it is late,
  /// the buffer is full, or the client has ended.
  size_t wait_head(Clock::time_point deadline);
  std::string_view unread() const { return {buffer_.data() + begin_, end_ - begin_}; }
  bool is_full() const { return end_ == buffer_.size(); }

  /// What read() may take from now on, and until when.
  void allow(uint64_t n_bytes, Clock::time_point deadline);
  /// Waits for bytes: at least one, 0 at the end of what the client sends, -1 where no more are
  /// allowed or the deadline is over.
  ssize_t read(char* out, size_t size);
  bool is_over_limit() const { return is_over_limit_; }
  bool is_late() const { return is_late_; }

  void set_write_time(std::chrono::milliseconds time) { write_time_ = time; }
  /// Waits until all is written; -1 where the client is gone, or takes it too slowly.
  ssize_t write(const char* bytes, size_t size);
  uint64_t written_bytes() const { return written_bytes_; }

  bool is_gone() const override;
  bool has_unread() const { return begin_ < end_; }

  /// Says that no more comes, and reads what is still sent for so long.
  void linger(std::chrono::milliseconds time);

 private:
  bool wait(short what, Clock::time_point deadline);
  /// Adds to the buffer, which is not full.
  bool refill();

  int descriptor_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
  uint64_t allowed_bytes_ = 0, written_bytes_ = 0;
  Clock::time_point deadline_;
  std::chrono::milliseconds write_time_{0};
  bool is_over_limit_ = false, is_late_ = false;
};

}  // namespace strata::serve
