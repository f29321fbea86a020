// tests/golden/golden_models.h - where the real models of the golden tests lie, if they are there.
// tools/fetch_models.sh fetches them, checks their SHA-256 and caches them in the same folder.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace strata::golden {

inline constexpr std::string_view kSmolLm2 = "SmolLM2-135M-Instruct.Q4_1.gguf";
inline constexpr std::string_view kGemma3 = "gemma-3-270m-q4_k_m.gguf";

/// $STRATA_MODELS_DIR, else ${XDG_CACHE_HOME:-~/.cache}/strata/models.
inline std::filesystem::path golden_models_folder() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string folder = variable("STRATA_MODELS_DIR"); !folder.empty()) return folder;
  const std::string cache = variable("XDG_CACHE_HOME");
  if (!cache.empty()) return std::filesystem::path(cache) / "strata" / "models";
  return std::filesystem::path(variable("HOME")) / ".cache" / "strata" / "models";
}

/// The path of a model file by its name, or nothing where it was not fetched.
inline std::optional<std::string> golden_model(std::string_view name) {
  const std::filesystem::path path = golden_models_folder() / name;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  return path.string();
}

/// What a test prints where it skips.
inline std::string golden_model_absent(std::string_view name) {
  return (golden_models_folder() / name).string() + " is absent: tools/fetch_models.sh fetches it";
}

}  // namespace strata::golden

/// Declares `path`, the path of the model named `name`, or skips the test with the reason.
#define STRATA_GOLDEN_MODEL(path, name)                                               \
  const std::optional<std::string> path##_found = strata::golden::golden_model(name); \
  if (!path##_found) GTEST_SKIP() << strata::golden::golden_model_absent(name);       \
  const std::string& path = *path##_found
