// tests/gpu_emu/marked_lines.h - the numbers of lines that a test's source marks by a comment, for
// messages that name lines.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/tree_paths.h"

namespace strata::gpu_emu {

/// "name.cc:77", the line of tests/gpu_emu/name.cc that ends in "// @mark".
inline std::string place_of(const std::string& name, const std::string& mark) {
  std::ifstream source(tree_path("tests/gpu_emu/" + name));
  const std::string wanted = "// @" + mark;
  std::string line;
  for (int number = 1; std::getline(source, line); ++number) {
    if (line.ends_with(wanted)) return name + ":" + std::to_string(number);
  }
  ADD_FAILURE() << "no line of " << name << " is marked " << mark;
  return "";
}

}  // namespace strata::gpu_emu
