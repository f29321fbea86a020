#include "cpu_attn/kernels.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/error.h"

namespace strata::cpu_attn {
namespace {

TEST(Kernels, TheScalarTableIsAlwaysThereAndTheWidestIsTheDefault) {
  const auto available = available_kernels();
  ASSERT_FALSE(available.empty());
  EXPECT_STREQ(available.front()->name, "scalar");
  EXPECT_EQ(&choose_kernels(), available.back());
  for (const KernelTable* table : available) EXPECT_EQ(&choose_kernels(table->name), table);
}

TEST(Kernels, AnUnknownSetIsRefusedWithTheNamesOfThisCpu) {
  try {
    choose_kernels("neon");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(
        std::string(error.what()).find("unknown instruction set 'neon'; this CPU has: scalar"),
        std::string::npos);
    EXPECT_EQ(error.where(), "--cpu-isa");
  }
}

/// Output of a command, read to its end.
std::string output_of(const std::string& command) {
  std::string text;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::array<char, 4096> piece{};
  while (pipe && fgets(piece.data(), static_cast<int>(piece.size()), pipe.get()) != nullptr)
    text += piece.data();
  return text;
}

/// A weak symbol is a function the linker may take from any object: taken from one of these, it
/// would run instructions the CPU may lack. "W" and "V" are weak definitions, "u" is unique over
/// all objects; "U" (undefined) is fine.
TEST(Kernels, ObjectsWithTheirOwnFlagsDefineNoWeakSymbol) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer adds weak data symbols of its own; the release suite judges";
#endif
  uint32_t n_objects = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(STRATA_BINARY_DIR "/cpu_attn")) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with("_avx2.cc.o") && !name.ends_with("_avx512.cc.o")) continue;
    ++n_objects;
    const std::string symbols = output_of("nm -C --defined-only '" + entry.path().string() + "'");
    EXPECT_NE(symbols.find("fill_"), std::string::npos) << name << ": nm printed no fill function";
    for (const char* kind : {" W ", " V ", " w ", " v ", " u "})
      EXPECT_EQ(symbols.find(kind), std::string::npos) << name << ":\n" << symbols;
  }
  EXPECT_GE(n_objects, 2u);
}

}  // namespace
}  // namespace strata::cpu_attn
