#include "tools/cli/disk_facts.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 2> kMemory = {"tmpfs", "ramfs"};
constexpr std::array<std::string_view, 8> kNetwork = {"nfs",  "nfs4", "cifs",     "smb3",
                                                      "ceph", "9p",   "virtiofs", "fuse.sshfs"};

fs::path nearest_folder(const std::string& path) {
  std::error_code unknown;  // then it counts as absent
  fs::path folder = fs::absolute(path, unknown);
  while (!fs::is_directory(folder, unknown) && folder.has_relative_path())
    folder = folder.parent_path();
  const fs::path real = fs::canonical(folder, unknown);
  return unknown ? folder : real;
}

/// A blank in the table of mounts is "\040": proc(5).
std::string without_escapes(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_octal = text[i] == '\\' && i + 3 < text.size() &&
                          std::all_of(text.begin() + static_cast<ptrdiff_t>(i) + 1,
                                      text.begin() + static_cast<ptrdiff_t>(i) + 4,
                                      [](char digit) { return digit >= '0' && digit <= '7'; });
    if (!is_octal) {
      out += text[i];
      continue;
    }
    out +=
        static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + text[i + 3] - '0');
    i += 3;
  }
  return out;
}

bool is_below(const fs::path& folder, const fs::path& mount) {
  const auto [end, unused] = std::ranges::mismatch(mount, folder);
  return end == mount.end() || end->empty();  // "/data/" ends with an empty part
}

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  const size_t end = line.find_last_not_of(' ');
  return end == std::string::npos ? "" : line.substr(0, end + 1);
}

/// A file of the block device, or of the whole one that it is a partition of.
std::string of_block_device(const std::string& root, const std::string& number,
                            const std::string& name) {
  std::error_code unknown;
  const fs::path folder = fs::canonical(root + "sys/dev/block/" + number, unknown);
  if (unknown) return "";
  const std::string own = first_line(folder / name);
  return own.empty() ? first_line(folder.parent_path() / name) : own;
}

}  // namespace

bool DiskFacts::is_memory() const {
  return std::ranges::find(kMemory, file_system) != kMemory.end();
}

bool DiskFacts::is_network() const {
  return std::ranges::find(kNetwork, file_system) != kNetwork.end();
}

std::string DiskFacts::name() const {
  if (file_system.empty()) return "an unknown disk";
  std::string out = file_system + " on " + device;
  if (!model.empty()) out += " (" + model + ")";
  return out;
}

DiskFacts disk_facts(const std::string& path, const std::string& root) {
  DiskFacts facts;
  const fs::path folder = nearest_folder(path);
  facts.folder = folder.string();
  std::string number;
  size_t longest = 0;
  std::ifstream lines(root + "proc/self/mountinfo");
  // "36 35 98:0 /root /mount options tags - ext4 /dev/sda1 more": proc(5). A later mount of the
  // same place hides the earlier one.
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string skipped, device_number, mount;
    words >> skipped >> skipped >> device_number >> skipped >> mount;
    mount = without_escapes(mount);
    if (mount.size() < longest || !is_below(folder, mount)) continue;
    const size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream tail(line.substr(separator + 3));
    if (!(tail >> facts.file_system >> facts.device)) continue;
    longest = mount.size();
    number = device_number;
  }
  facts.device = without_escapes(facts.device);
  if (number.empty()) return facts;
  facts.model = of_block_device(root, number, "device/model");
  // Disks of virtual machines, which have no model, all say that they rotate.
  facts.is_rotating =
      !facts.model.empty() && of_block_device(root, number, "queue/rotational") == "1";
  return facts;
}

}  // namespace strata::cli
