#include "tools/cli/value_readers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "engine/byte_text.h"

namespace strata::cli {
namespace {

TEST(SizeReader, TakesBinaryAndDecimalUnits) {
  EXPECT_EQ(read_size("0"), 0u);
  EXPECT_EQ(read_size("17"), 17u);
  EXPECT_EQ(read_size("17B"), 17u);
  EXPECT_EQ(read_size("12GiB"), 12ull << 30);
  EXPECT_EQ(read_size("12G"), 12ull << 30);
  EXPECT_EQ(read_size("12GB"), 12'000'000'000ull);
  EXPECT_EQ(read_size("3k"), 3ull << 10);
  EXPECT_EQ(read_size("3kb"), 3000u);
  EXPECT_EQ(read_size("5MiB"), 5ull << 20);
  EXPECT_EQ(read_size("5mb"), 5'000'000u);
  EXPECT_EQ(read_size("2TiB"), 2ull << 40);
  EXPECT_EQ(read_size("2TB"), 2'000'000'000'000ull);
  EXPECT_EQ(read_size("1.5GiB"), 3ull << 29);
  EXPECT_EQ(read_size("0.25k"), 256u);
}

TEST(DurationReader, WantsAUnit) {
  EXPECT_EQ(read_duration_ms("30s"), 30e3);
  EXPECT_EQ(read_duration_ms("1500ms"), 1500);
  EXPECT_EQ(read_duration_ms("1.5s"), 1500);
  EXPECT_EQ(read_duration_ms("2min"), 120e3);
  EXPECT_EQ(read_duration_ms("1h"), 3600e3);
  for (const char* text : {"", "30", "s", "-1s", "1 s", "1.2.3s", "1e3s", "1m", "30S", "nans"})
    EXPECT_EQ(read_duration_ms(text), std::nullopt) << text;
}

TEST(LayerModeReader, TakesNumbersRangesAndModesAndGivesThemBack) {
  using Of = index::LayerMode;
  const auto modes = read_layer_modes("0-1:dense,4:reuse,3:index");
  ASSERT_TRUE(modes.has_value());
  EXPECT_EQ(*modes, (std::vector{Of::kDense, Of::kDense, Of::kIndex, Of::kIndex, Of::kReuse}));
  EXPECT_EQ(layer_modes_text(*modes), "0-1:dense,4:reuse");
  EXPECT_EQ(layer_modes_text({}), "");
  EXPECT_EQ(*read_layer_modes("2:dense"), (std::vector{Of::kIndex, Of::kIndex, Of::kDense}));
  for (const char* text :
       {"", "0", "dense", ":dense", "0:", "0:all", "1-0:dense", "0:dense,", "a:dense",
        "0:dense,0:reuse", "0-2:dense,1:index", "-1:dense", "9999:dense"})
    EXPECT_FALSE(read_layer_modes(text).has_value()) << text;
}

TEST(BudgetReader, TakesTokensSharesWeightAndNats) {
  using Kind = index::Budget::Kind;
  struct Case {
    const char* text;
    Kind kind;
    double value;
  };
  for (const Case& of : {Case{"2048", Kind::kTokens, 2048}, Case{"2%", Kind::kShare, 0.02},
                         Case{"0.98p", Kind::kMass, 0.98}, Case{"6n", Kind::kLogGap, 6},
                         Case{"0.5n", Kind::kLogGap, 0.5}}) {
    const auto budget = read_budget(of.text);
    ASSERT_TRUE(budget.has_value()) << of.text;
    EXPECT_EQ(budget->kind, of.kind) << of.text;
    EXPECT_EQ(budget->value, of.value) << of.text;
    EXPECT_EQ(budget_text(*budget), of.text);
  }
  for (const char* text : {"", "n", "0n", "-1n", "6nn", "infn", "6 n", "0", "0%", "101%", "1.1p"})
    EXPECT_FALSE(read_budget(text).has_value()) << text;
}

TEST(ShareReader, TakesPercentAndZero) {
  EXPECT_EQ(read_share("0"), 0.0);
  EXPECT_EQ(read_share("0%"), 0.0);
  EXPECT_EQ(read_share("1.5%"), 0.015);
  EXPECT_EQ(read_share("100%"), 1.0);
  for (const char* text : {"", "%", "1", "0.5", "-1%", "101%", "1 %", "1%%"})
    EXPECT_FALSE(read_share(text).has_value()) << text;
}

TEST(SizeReader, RefusesWhateverIsNotExactlyASize) {
  for (const char* text : {"",
                           " ",
                           "G",
                           ".5G",
                           "1.G",
                           "-1G",
                           "+1G",
                           "1 G",
                           " 1G",
                           "1G ",
                           "1GiBs",
                           "1.5",
                           "1.5B",
                           "1e9",
                           "0x10",
                           "1,5G",
                           "1.2345678G",
                           "1..5G",
                           "12Gib/s",
                           "infinity",
                           "99999999999999999999",
                           "1PiB",
                           "18446744073709551616",
                           "16777216TiB",
                           "18446744073709551615k"}) {
    EXPECT_EQ(read_size(text), std::nullopt) << "'" << text << "'";
  }
}

TEST(SizeReader, HoldsWhatSizeArgumentProposes) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t bytes = random() >> (18 + random() % 46);  // up to 64 TiB
    const std::string text = engine::size_argument(bytes);
    const auto read = read_size(text);
    ASSERT_TRUE(read.has_value()) << text;
    EXPECT_GE(*read, bytes) << text;
    // A tenth of the unit, and the unit is at most the value itself.
    EXPECT_LE(static_cast<double>(*read), static_cast<double>(bytes) * 1.1 + 1) << text;
  }
}

TEST(CountReader, CountsTokensInUnitsOf1024) {
  EXPECT_EQ(read_count("4096"), 4096u);
  EXPECT_EQ(read_count("32k"), 32768u);
  EXPECT_EQ(read_count("128K"), 131072u);
  EXPECT_EQ(read_count("1M"), 1048576u);
  EXPECT_EQ(read_count("18446744073709551615"), UINT64_MAX);
}

TEST(CountReader, RefusesSignsFractionsAndWrapping) {
  for (const char* text : {"", "k", "-1", "+1", "1.5k", "32kk", "32 k", "32G",
                           "18446744073709551616", "18446744073709551615k", "0x20"}) {
    EXPECT_EQ(read_count(text), std::nullopt) << "'" << text << "'";
  }
}

TEST(NumberReaders, TakeWholeTextsOnly) {
  EXPECT_EQ(read_integer("-1"), -1);
  EXPECT_EQ(read_integer("42"), 42);
  for (const char* text : {"", "1x", "1.0", "--1", "9223372036854775808"})
    EXPECT_EQ(read_integer(text), std::nullopt) << text;
  EXPECT_EQ(read_real("0.8"), 0.8);
  EXPECT_EQ(read_real("-2e3"), -2000.0);
  for (const char* text : {"", "nan", "inf", "-inf", "1e999", "1,5", "0.8f", " 1"})
    EXPECT_EQ(read_real(text), std::nullopt) << text;
}

TEST(SwitchReader, TakesTheUsualWords) {
  for (const char* text : {"true", "TRUE", "on", "yes", "1"})
    EXPECT_EQ(read_switch(text), true) << text;
  for (const char* text : {"false", "Off", "no", "0"}) EXPECT_EQ(read_switch(text), false) << text;
  for (const char* text : {"", "2", "y", "truee"})
    EXPECT_EQ(read_switch(text), std::nullopt) << text;
}

TEST(LogitBiasReader, TakesIdSignAndNumber) {
  EXPECT_EQ(read_logit_bias("15043+1.5"), std::pair(15043, 1.5));
  EXPECT_EQ(read_logit_bias("2-3"), std::pair(2, -3.0));
  const auto barred = read_logit_bias("2-inf");
  ASSERT_TRUE(barred.has_value());
  EXPECT_TRUE(std::isinf(barred->second) && barred->second < 0);
  for (const char* text : {"", "15", "15+", "+1", "15=1", "15+-1", "15--1", "15+x", "15+nan",
                           "-1+1", "4294967296+1", "15+1+1"}) {
    EXPECT_EQ(read_logit_bias(text), std::nullopt) << "'" << text << "'";
  }
}

}  // namespace
}  // namespace strata::cli
