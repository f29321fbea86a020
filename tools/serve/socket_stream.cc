#include "tools/serve/socket_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "tools/serve/http_head.h"

namespace strata::serve {

using std::chrono::milliseconds;

void SocketStream::allow(uint64_t n_bytes, Clock::time_point deadline) {
  allowed_bytes_ = n_bytes;
  deadline_ = deadline;
  is_over_limit_ = is_late_ = false;
}

bool SocketStream::wait_request(milliseconds time) {
  return has_unread() || wait(POLLIN, Clock::now() + time);
}

size_t SocketStream::wait_head(Clock::time_point deadline) {
  deadline_ = deadline;
  is_late_ = false;
  std::copy(buffer_.data() + begin_, buffer_.data() + end_, buffer_.data());
  end_ -= std::exchange(begin_, 0);
  for (size_t looked_at = 0;;) {
    const size_t size = head_size(unread(), looked_at);
    if (size > 0 || is_full()) return size;
    looked_at = end_ - std::min<size_t>(end_, 2);
    if (!refill()) return 0;
  }
}

bool SocketStream::is_gone() const {
  pollfd socket = {descriptor_, POLLRDHUP, 0};
  return ::poll(&socket, 1, 0) > 0;  // hang-up and faults are reported unasked
}

ssize_t SocketStream::read(char* out, size_t size) {
  if (allowed_bytes_ == 0) {
    is_over_limit_ = true;
    return -1;
  }
  if (begin_ == end_) {
    begin_ = end_ = 0;
    if (!refill()) return is_late_ ? -1 : 0;
  }
  const size_t n = std::min<uint64_t>({size, end_ - begin_, allowed_bytes_});
  std::copy_n(buffer_.data() + begin_, n, out);
  begin_ += n;
  allowed_bytes_ -= n;
  return static_cast<ssize_t>(n);
}

ssize_t SocketStream::write(const char* bytes, size_t size) {
  const auto deadline = Clock::now() + write_time_;
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::send(descriptor_, bytes + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    const bool is_blocked = n < 0 && (errno == EAGAIN || errno == EINTR);
    if (n < 0 && (!is_blocked || !wait(POLLOUT, deadline))) return -1;
    if (is_blocked) continue;
    done += static_cast<size_t>(n);
    written_bytes_ += static_cast<uint64_t>(n);
  }
  return static_cast<ssize_t>(size);
}

void SocketStream::linger(milliseconds time) {
  ::shutdown(descriptor_, SHUT_WR);
  deadline_ = Clock::now() + time;
  do {
    begin_ = end_ = 0;
  } while (refill() && Clock::now() < deadline_);  // a client that never pauses is left too
}

bool SocketStream::wait(short what, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd socket = {descriptor_, what, 0};
    const int n = ::poll(&socket, 1, static_cast<int>(std::min<int64_t>(left, 1 << 30)));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
  }
}

bool SocketStream::refill() {
  for (;;) {
    const ssize_t n =
        ::recv(descriptor_, buffer_.data() + end_, buffer_.size() - end_, MSG_DONTWAIT);
    if (n > 0) {
      end_ += static_cast<size_t>(n);
      return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) return false;
    if (!wait(POLLIN, deadline_)) {
      is_late_ = true;
      return false;
    }
  }
}

}  // namespace strata::serve
