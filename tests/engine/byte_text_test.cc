#include "engine/byte_text.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace strata::engine {
namespace {

TEST(ByteText, ShowsOneDecimalOfTheLargestUnit) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.0 KiB");
  EXPECT_EQ(bytes_text(98362432), "93.8 MiB");
  EXPECT_EQ(bytes_text(3ull << 30), "3.0 GiB");
  EXPECT_EQ(bytes_text(UINT64_MAX), "16777216.0 TiB");
}

TEST(ByteText, NeverShows1024OfAUnit) {
  EXPECT_EQ(bytes_text((1ull << 20) - 1), "1.0 MiB");
  EXPECT_EQ(bytes_text((1ull << 30) - 1), "1.0 GiB");
  EXPECT_EQ(bytes_text((1ull << 20) - 60), "1023.9 KiB");
}

TEST(ByteText, AnArgumentIsRoundedUp) {
  EXPECT_EQ(size_argument(0), "0");
  EXPECT_EQ(size_argument(1), "1");
  EXPECT_EQ(size_argument(1024), "1KiB");
  EXPECT_EQ(size_argument(1025), "1.1KiB");
  EXPECT_EQ(size_argument(98362432), "93.9MiB");
  EXPECT_EQ(size_argument((1ull << 30) - 1), "1GiB");
  EXPECT_EQ(size_argument((2ull << 30) - 1), "2GiB");
}

TEST(ByteText, GroupsThousands) {
  EXPECT_EQ(grouped_number(0), "0");
  EXPECT_EQ(grouped_number(999), "999");
  EXPECT_EQ(grouped_number(1000), "1,000");
  EXPECT_EQ(grouped_number(12345), "12,345");
  EXPECT_EQ(grouped_number(UINT64_MAX), "18,446,744,073,709,551,615");
}

}  // namespace
}  // namespace strata::engine
