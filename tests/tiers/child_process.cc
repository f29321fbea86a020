#include "tests/tiers/child_process.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

namespace strata::tiers {
namespace {

void demand_call(bool worked, const std::string& what) {
  if (!worked) throw NotPossibleHere(what + ": " + std::strerror(errno));
}

std::string report_of(const std::function<void()>& body) {
  try {
    body();
    return "";
  } catch (const NotPossibleHere& reason) {
    return std::string("SKIP ") + reason.what();
  } catch (const std::exception& failure) {
    return std::string("failed: ") + failure.what();
  }
}

}  // namespace

void demand(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

std::string run_in_child(const std::function<void()>& body) {
  std::array<int, 2> pipe_ends;
  if (::pipe(pipe_ends.data()) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child < 0) return "no child";
  if (child == 0) {
    const std::string report = report_of(body);
    const bool is_told =
        ::write(pipe_ends[1], report.data(), report.size()) == static_cast<ssize_t>(report.size());
    ::_exit(is_told ? 0 : 1);
  }
  ::close(pipe_ends[1]);
  std::string report;
  std::array<char, 512> part;
  for (ssize_t n; (n = ::read(pipe_ends[0], part.data(), part.size())) > 0;)
    report.append(part.data(), static_cast<size_t>(n));
  ::close(pipe_ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (status != 0) report += " ended with wait status " + std::to_string(status);
  return report;
}

void forbid_call(long call, int error_number, unsigned argument, uint32_t mask) {
  const auto number_at = static_cast<uint32_t>(offsetof(seccomp_data, nr));
  const auto argument_at =
      static_cast<uint32_t>(offsetof(seccomp_data, args) + argument * sizeof(uint64_t));
  const uint32_t refusal = SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number);
  std::array<sock_filter, 6> filter = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number_at),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument_at),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, mask, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, refusal),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  if (mask == 0) filter[3] = BPF_STMT(BPF_RET | BPF_K, refusal);
  const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  demand_call(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  demand_call(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "no seccomp filter");
}

void ask_before_call(long call, std::function<int(uint64_t n)> error_number) {
  std::promise<int> told;
  // It begins before the filter, which holds for this thread and those that it starts.
  std::thread([listener = told.get_future(), answer = std::move(error_number)]() mutable {
    const int descriptor = listener.get();
    for (uint64_t n = 0;; ++n) {
      seccomp_notif asked = {};
      if (::ioctl(descriptor, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) {
        // Who asked was woken by something else meanwhile, and asks again.
        if (errno == ENOENT || errno == EINTR) continue;
        std::fprintf(stderr, "asking about calls ended: %s\n", std::strerror(errno));
        ::_exit(1);  // nobody would answer any more
      }
      seccomp_notif_resp response = {.id = asked.id, .val = 0, .error = -answer(n), .flags = 0};
      if (response.error == 0) response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
      (void)::ioctl(descriptor, SECCOMP_IOCTL_NOTIF_SEND, &response);
    }
  }).detach();
  std::array<sock_filter, 4> filter = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offsetof(seccomp_data, nr))),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  demand_call(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  const long listener =
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  demand_call(listener >= 0, "no seccomp filter that asks");
  told.set_value(static_cast<int>(listener));
}

void become_nobody(uint64_t locked_bytes) {
  constexpr unsigned kNobody = 65534;
  const rlimit limit = {locked_bytes, locked_bytes};
  demand_call(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "cannot lower the limit on locked memory");
  if (::getuid() != 0) return;  // already without the rights of root
  demand_call(::setgroups(0, nullptr) == 0, "cannot leave groups");
  demand_call(::setresgid(kNobody, kNobody, kNobody) == 0, "cannot change the group");
  demand_call(::setresuid(kNobody, kNobody, kNobody) == 0, "cannot become nobody");
}

}  // namespace strata::tiers
