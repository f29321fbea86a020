// make_zoo FOLDER - writes every model of the zoo (tools/makers/zoo.h) as FOLDER/NAME.gguf and
// lists them. Why: to look at one with `strata inspect`, or to compare it with another engine.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "tools/makers/zoo.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: make_zoo FOLDER\n");
    return 2;
  }
  try {
    for (const auto& member : strata::makers::zoo()) {
      const std::string path = fmt::format("{}/{}.gguf", argv[1], member.model.name);
      strata::makers::write_random_transformer(member.model, path);
      fmt::print("{:8} bytes  {}  {}\n", std::filesystem::file_size(path), path, member.shows);
    }
  } catch (const strata::Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  } catch (const std::filesystem::filesystem_error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
  return 0;
}
