// The sizes that remedies propose are read back by the option they name, and suffice.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>

#include "engine/byte_text.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

TEST(SizeArgument, ReadsBackAsAtLeastTheBytesAndLittleMore) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t bytes = random() >> (18 + random() % 46);  // up to 64 TiB, the options' limit
    const auto read = read_size(engine::size_argument(bytes));
    ASSERT_TRUE(read) << engine::size_argument(bytes);
    ASSERT_GE(*read, bytes) << engine::size_argument(bytes);
    ASSERT_LE(*read, bytes + bytes / 10 + 1) << engine::size_argument(bytes);
  }
}

}  // namespace
}  // namespace strata::cli
