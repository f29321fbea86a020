#include "tools/cli/input_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"

namespace strata::cli {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

std::string read_open_file(const Descriptor& file, const std::string& path,
                           const std::string& where, int open_errno) {
  if (file.get() < 0) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot open '{}': {}", path, std::strerror(open_errno)), where,
                open_errno == ENOENT ? "check the path" : "check that the file may be read");
  }
  return read_descriptor(file.get(), path, where);
}

}  // namespace

std::string read_descriptor(int descriptor, const std::string& name, const std::string& where) {
  std::string text;
  std::vector<char> part(uint64_t{1} << 16);
  // A pipe that stays open without a word, inherited from a script perhaps, must not look like a
  // program that hangs.
  const auto on_pause = [&] {
    notice(fmt::format("waiting for text on {} (where there is none: < /dev/null)", name));
  };
  for (;;) {
    if (!wait_for_input(descriptor, on_pause))
      throw Error(ErrorCode::kCancelled, fmt::format("reading '{}' was interrupted", name), where);
    const ssize_t n = ::read(descriptor, part.data(), part.size());
    if (n == 0) return text;
    if (n < 0) {
      if (errno == EINTR) continue;
      throw Error(
          ErrorCode::kIo, fmt::format("cannot read '{}': {}", name, std::strerror(errno)), where,
          errno == EISDIR ? "name a file, not a folder" : "check that the file may be read");
    }
    text.append(part.data(), static_cast<size_t>(n));
    if (text.size() > engine::kMaxTextBytes) {
      throw Error(ErrorCode::kUsage, fmt::format("'{}' is larger than 1 GiB", name), where,
                  "no context holds so long a text: give a part of it");
    }
  }
}

std::string read_text_file(const std::string& path, const std::string& where) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return read_open_file(file, path, where, errno);
}

std::optional<std::string> read_text_file_if_present(const std::string& path,
                                                     const std::string& remedy) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const int open_errno = errno;
  if (file.get() < 0 && (open_errno == ENOENT || open_errno == ENOTDIR)) return std::nullopt;
  if (file.get() < 0) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot open '{}': {}", path, std::strerror(open_errno)), path, remedy);
  }
  return read_descriptor(file.get(), path, path);
}

bool standard_input_is_given() {
  struct stat status {};
  if (::fstat(STDIN_FILENO, &status) != 0) return false;
  return S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode);
}

void check_utf8(std::string_view text, const std::string& where) {
  const uint64_t fault = engine::utf8_fault(text);
  if (fault == text.size()) return;
  throw Error(ErrorCode::kBadText,
              fmt::format("wanted UTF-8 text, found byte 0x{:02x} at offset {}",
                          static_cast<unsigned char>(text[fault]), fault),
              where, "convert the text, for example with `iconv -t UTF-8`");
}

}  // namespace strata::cli
