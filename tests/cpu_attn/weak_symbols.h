// tests/cpu_attn/weak_symbols.h - what `nm` says of the objects that are compiled with flags of
// their own. A weak symbol is a function the linker may take from any object: taken from one of
// these, it would run instructions the CPU may lack.
#pragma once

#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

namespace strata {

/// Output of a command, read to its end.
inline std::string output_of(const std::string& command) {
  std::string text;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::array<char, 4096> piece{};
  while (pipe && fgets(piece.data(), static_cast<int>(piece.size()), pipe.get()) != nullptr)
    text += piece.data();
  return text;
}

/// Findings over the *_avx2*.cc and *_avx512*.cc objects below `folder`, "" where all is well: weak
/// definitions ("W", "V"), symbols unique over all objects ("u"), an object that does not define a
/// symbol with `wanted` in its name (nm or its arguments would be wrong), fewer than two objects.
inline std::string weak_symbols_in(const std::string& folder, const std::string& wanted) {
  std::string findings;
  uint32_t n_objects = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".cc.o") || name.find("_avx") == std::string::npos) continue;
    ++n_objects;
    const std::string symbols = output_of("nm -C --defined-only '" + entry.path().string() + "'");
    if (symbols.find(wanted) == std::string::npos) findings += name + ": no " + wanted + "\n";
    for (const char* kind : {" W ", " V ", " w ", " v ", " u "}) {
      if (symbols.find(kind) != std::string::npos)
        findings += name + " has symbols of kind" + kind + "in:\n" + symbols;
    }
  }
  if (n_objects < 2) findings += folder + ": " + std::to_string(n_objects) + " objects\n";
  return findings;
}

}  // namespace strata
