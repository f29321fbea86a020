#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/engine/small_vocabulary.h"

namespace strata::engine {
namespace {

using testing::with_replacements;

bool is_scalar(uint32_t code_point) {
  return code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF);
}

/// Decodes by the definition: the shortest encoding of a scalar value, tried for every length.
std::optional<uint32_t> decode_by_definition(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  constexpr uint32_t kFirstOfLength[] = {0, 0, 0x80, 0x800, 0x10000};
  constexpr uint8_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  constexpr uint8_t kLeadMask[] = {0, 0x80, 0xE0, 0xF0, 0xF8};
  const size_t n = bytes.size();
  if (n == 0 || n > 4 || (byte(0) & kLeadMask[n]) != kLead[n]) return std::nullopt;
  uint32_t code_point = byte(0) & static_cast<uint8_t>(~kLeadMask[n]);
  for (size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return std::nullopt;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  if (code_point < kFirstOfLength[n] || !is_scalar(code_point)) return std::nullopt;
  return code_point;
}

TEST(Utf8, EveryCodePointComesBack) {
  for (uint32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (!is_scalar(code_point)) continue;
    std::string text;
    append_utf8(code_point, text);
    ASSERT_EQ(decode_by_definition(text), code_point);
    const Utf8Step step = utf8_step(text + "x");
    ASSERT_EQ(step.status, Utf8Status::kWhole);
    ASSERT_EQ(step.code_point, code_point);
    ASSERT_EQ(step.bytes, text.size());
    ASSERT_EQ(utf8_fault(text), text.size());
    for (size_t n = 1; n < text.size(); ++n) {
      const Utf8Step part = utf8_step(std::string_view(text).substr(0, n));
      ASSERT_EQ(part.status, Utf8Status::kUnfinished) << code_point;
      ASSERT_EQ(part.bytes, n);
    }
  }
}

TEST(Utf8, EveryThreeBytesAreJudgedAsTheDefinitionDoes) {
  for (uint32_t bits = 0; bits < 1u << 24; bits += bits < 0xE0'0000 || bits > 0xF4'FFFF ? 251 : 1) {
    const std::string text = {static_cast<char>(bits >> 16), static_cast<char>(bits >> 8),
                              static_cast<char>(bits)};
    std::optional<uint32_t> wanted;
    size_t n = 1;
    while (n <= 3 && !(wanted = decode_by_definition(std::string_view(text).substr(0, n)))) ++n;
    const Utf8Step step = utf8_step(text);
    ASSERT_EQ(step.status == Utf8Status::kWhole, wanted.has_value()) << std::hex << bits;
    if (!wanted) continue;
    ASSERT_EQ(step.code_point, *wanted) << std::hex << bits;
    ASSERT_EQ(step.bytes, n) << std::hex << bits;
  }
}

TEST(Utf8, MaximalSubpartsAreThoseOfTheStandard) {
  const std::string r(kReplacementCharacter);
  // The Unicode Standard, tables 3-8 to 3-11.
  EXPECT_EQ(with_replacements("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(with_replacements("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(with_replacements("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(with_replacements("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8, FaultIsTheFirstByteOfTheFirstBrokenSequence) {
  EXPECT_EQ(utf8_fault(""), 0u);
  for (size_t before = 0; before < 20; ++before) {
    for (const char* broken : {"\xFF", "\x80", "\xC0\x80", "\xED\xA0\x80", "\xE2\x82", "\xF5"}) {
      for (size_t after = 0; after < 12; ++after) {
        const std::string text = std::string(before, 'a') + broken + std::string(after, 'b');
        ASSERT_EQ(utf8_fault(text), before) << broken << " before " << after;
      }
    }
  }
}

TEST(Utf8, DrawnTextsHaveNoFaultAndOneBrokenByteIsFound) {
  const uint32_t seed = 11;
  SCOPED_TRACE(seed);
  testing::TextSource source(seed);
  for (int i = 0; i < 2000; ++i) {
    std::string text = source.text(1 + source.below(40));
    ASSERT_EQ(utf8_fault(text), text.size());
    ASSERT_EQ(with_replacements(text), text);
    const size_t at = source.below(static_cast<uint32_t>(text.size()));
    text[at] = static_cast<char>(0xFF);
    const uint64_t fault = utf8_fault(text);
    ASSERT_LE(fault, at);  // the character that the byte broke begins up to three bytes earlier
    ASSERT_LE(at - fault, 3u);
  }
}

}  // namespace
}  // namespace strata::engine
