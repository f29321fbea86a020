#include "tools/cli/answer_sink.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace strata::cli {

AnswerSink AnswerSink::open(const std::string& path, const std::string& what) {
  if (path.empty() || path == "-") {
    AnswerSink sink(STDOUT_FILENO, "standard output", what);
    const int flags = ::fcntl(STDOUT_FILENO, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) sink.fail(EBADF);
    return sink;
  }
  AnswerSink sink(-1, path, what);
  sink.descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (sink.descriptor_ < 0) sink.fail(errno);
  return sink;
}

AnswerSink::AnswerSink(AnswerSink&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      name_(std::move(other.name_)),
      what_(std::move(other.what_)),
      emptied_(other.emptied_) {}

AnswerSink::~AnswerSink() {
  if (descriptor_ > STDERR_FILENO) ::close(descriptor_);
}

void AnswerSink::fail(int error_number) const {
  const char* remedy = "check that it may be written";
  if (error_number == EPIPE) remedy = "keep the reader of the pipe open";
  if (error_number == ENOSPC) remedy = "free space or name a file elsewhere";
  if (error_number == EFBIG) remedy = "raise the limit on file sizes (ulimit -f)";
  if (error_number == ENOENT || error_number == ENOTDIR) remedy = "check that its folder exists";
  if (error_number == EISDIR) remedy = "name a file, not a folder";
  if (error_number == EBADF) remedy = "leave it open, or send it to a file or a pipe";
  const std::string why =
      error_number == EBADF ? "it is closed" : std::string(std::strerror(error_number));
  throw Error(ErrorCode::kIo, fmt::format("cannot write {}: {}", what_, why), name_, remedy);
}

void AnswerSink::write(std::string_view text) {
  if (!emptied_) {
    emptied_ = true;
    struct stat status {};
    const bool is_own_file = descriptor_ > STDERR_FILENO && ::fstat(descriptor_, &status) == 0 &&
                             S_ISREG(status.st_mode);
    if (is_own_file && ::ftruncate(descriptor_, 0) != 0) fail(errno);
  }
  while (!text.empty()) {
    const ssize_t n = ::write(descriptor_, text.data(), text.size());
    if (n < 0 && errno == EINTR)
      continue;  // Ctrl-C ends the answer between steps, not inside a write
    if (n < 0) fail(errno);
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void AnswerSink::write_line(std::string_view text) {
  std::string line(text);
  line += '\n';
  write(line);
}

void AnswerSink::close() {
  if (descriptor_ <= STDERR_FILENO) return;
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) fail(errno);
}

bool AnswerSink::is_terminal() const { return ::isatty(descriptor_) == 1; }

}  // namespace strata::cli
