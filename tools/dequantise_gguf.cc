// dequantise_gguf IN OUT - writes the F32 copy of a model file (tools/makers/f32_copy.h).
#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"
#include "tools/makers/f32_copy.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: dequantise_gguf IN OUT\n");
    return 2;
  }
  try {
    strata::makers::write_f32_copy(argv[1], argv[2]);
  } catch (const strata::Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return strata::exit_code(error.code());
  }
  return 0;
}
