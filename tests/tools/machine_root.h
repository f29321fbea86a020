// tests/tools/machine_root.h - a file tree that stands for "/" of a machine that is not here.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/engine/test_folder.h"

namespace strata::cli::testing {

class MachineRoot : public ::testing::Test {
 protected:
  struct Mount {
    std::string number, place, file_system, device;
  };

  std::string root() const { return folder_.path() + "/"; }
  std::string path(const std::string& name = "") const {
    return name.empty() ? folder_.path() : folder_.path(name);
  }
  void make_folder(const std::string& name) const {
    std::filesystem::create_directories(path(name));
  }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    std::ofstream(path(name)) << text;
  }
  void write_mounts(const std::vector<Mount>& mounts) const {
    std::string text;
    for (const Mount& of : mounts)
      text += "36 35 " + of.number + " / " + of.place + " rw,noatime shared:1 - " + of.file_system +
              " " + of.device + " rw\n";
    write("proc/self/mountinfo", text);
  }
  void write_memory(uint64_t total_kib, uint64_t available_kib) const {
    write("proc/meminfo", "MemTotal: " + std::to_string(total_kib) +
                              " kB\nMemAvailable: " + std::to_string(available_kib) + " kB\n");
  }

  engine::testing::TestFolder folder_;
};

}  // namespace strata::cli::testing
