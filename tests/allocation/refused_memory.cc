#include "tests/allocation/refused_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <random>

#include "base/error.h"
#include "tests/allocation/counted_allocations.h"
#include "tests/sanitizer.h"

namespace strata::testing {
namespace {

// Of what is being tried, for a process that ends by itself.
char place[256];

[[noreturn]] void on_terminate() {
  (void)end_refusing();
  (void)!::write(STDERR_FILENO, place, std::char_traits<char>::length(place));
  std::abort();
}

/// While it lives, std::terminate() says what was tried.
class NamedTermination {
 public:
  NamedTermination() : before_(std::set_terminate(on_terminate)) {}
  ~NamedTermination() { std::set_terminate(before_); }
  NamedTermination(const NamedTermination&) = delete;
  NamedTermination& operator=(const NamedTermination&) = delete;

 private:
  std::terminate_handler before_;
};

uint64_t n_wanted(uint64_t n_default) {
  const char* const text = std::getenv("STRATA_ALLOCATIONS");
  return text == nullptr ? n_default : std::max<uint64_t>(1, std::strtoull(text, nullptr, 10));
}

uint32_t drawn_seed() {
  const char* const text = std::getenv("STRATA_SEED");
  return text == nullptr ? std::random_device()()
                         : static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
}

struct Ending {
  std::optional<std::string> result;  // nothing: it failed
  std::string problem;                // with what no user should see
  uint64_t n_asked = 0;
};

Ending try_it(const Work& work, uint64_t k, bool for_good) {
  if (work.prepare) work.prepare();
  std::snprintf(place, sizeof(place), "\n%s: terminated where allocation %llu was refused%s\n",
                work.name.c_str(), static_cast<unsigned long long>(k),
                for_good ? " and all after it" : "");
  Ending ending;
  std::optional<Error> error;
  bool is_known = true;
  refuse_memory(k, for_good);
  try {
    ending.result = work.run();
  } catch (const Error& failure) {
    ending.n_asked = end_refusing();
    error = failure;
  } catch (const std::bad_alloc&) {
    ending.n_asked = end_refusing();
  } catch (...) {
    ending.n_asked = end_refusing();
    is_known = false;
  }
  if (ending.n_asked == 0) ending.n_asked = end_refusing();
  if (!is_known) ending.problem = "an exception of no kind that is reported";
  if (error && error->code() != ErrorCode::kOutOfMemory && error->code() != ErrorCode::kIo)
    ending.problem = "error " + std::string(error_code_name(error->code())) + ": " + error->what();
  if (error && k == UINT64_MAX) ending.problem = error->what();
  if (error && error->remedy().empty()) ending.problem = std::string("no remedy: ") + error->what();
  return ending;
}

std::string left_by(const Work& work) { return work.left ? work.left() : std::string(); }

/// False where it ended in an error.
bool expect_survives(const Work& work, const std::string& expected, const std::string& held,
                     uint64_t k, bool for_good) {
  const Ending ending = try_it(work, k, for_good);
  EXPECT_EQ(ending.problem, "");
  if (ending.result && *ending.result != expected) {
    EXPECT_TRUE(work.is_enough && work.is_enough(*ending.result)) << *ending.result;
  }
  EXPECT_EQ(left_by(work), held);
  const Ending again = try_it(work, UINT64_MAX, false);
  EXPECT_EQ(again.result.value_or("it failed: " + again.problem), expected);
  EXPECT_EQ(left_by(work), held);
  return ending.result == expected;
}

}  // namespace

uint64_t n_open_files() {
  uint64_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++n;
  return n;
}

void expect_survives_refusals(const Work& work, uint64_t n_default) {
  const NamedTermination named;
  (void)try_it(work, UINT64_MAX, false);  // what is made once and stays
  const Ending whole = try_it(work, UINT64_MAX, false);
  ASSERT_TRUE(whole.result) << work.name << ": " << whole.problem;
  ASSERT_GT(whole.n_asked, 0u) << work.name << ": nothing that it asks for is seen";
  const std::string expected = *whole.result, held = left_by(work);
  const uint64_t n_files = n_open_files();
  const uint32_t seed = drawn_seed();
  SCOPED_TRACE(::testing::Message()
               << work.name << ", STRATA_SEED=" << seed << ", " << whole.n_asked << " allocations");
  std::mt19937_64 random(seed);
  const uint64_t n_tries =
      std::min(whole.n_asked, n_wanted(sanitizer::rounds(n_default, n_default / 8)));
  uint64_t n_failed = 0;
  for (const bool for_good : {false, true})
    for (uint64_t i = 0; i < n_tries && !::testing::Test::HasFailure(); ++i) {
      // One of each of n_tries equal parts.
      const uint64_t begin = whole.n_asked * i / n_tries, end = whole.n_asked * (i + 1) / n_tries;
      const uint64_t k = begin + 1 + random() % (end - begin);
      SCOPED_TRACE(::testing::Message() << "allocation " << k << (for_good ? " and on" : ""));
      const int64_t n_live = n_live_allocations();
      n_failed += expect_survives(work, expected, held, k, for_good) ? 0u : 1u;
      if (work.keeps_nothing) {
        EXPECT_EQ(n_live_allocations(), n_live);
        EXPECT_EQ(n_open_files(), n_files);
      }
    }
  EXPECT_GT(n_failed, 0u) << work.name << ": no refusal was noticed";
  std::printf("%s: %llu allocations, %llu refused in each way, %llu ended in an error\n",
              work.name.c_str(), static_cast<unsigned long long>(whole.n_asked),
              static_cast<unsigned long long>(n_tries), static_cast<unsigned long long>(n_failed));
}

}  // namespace strata::testing
