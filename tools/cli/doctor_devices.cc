// tools/cli/doctor_devices.cc - graphics cards, their driver and their links.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/host_memory.h"
#include "engine/byte_text.h"
#include "engine/device.h"
#include "tools/cli/doctor.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;
using engine::bytes_text;

constexpr uint64_t kPinnedBytes = uint64_t{64} << 20;  // that is tried

std::string word_in(const fs::path& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

/// A card of NVIDIA's as the bus shows it, driver or not.
struct BusCard {
  std::string address;        // "0000:01:00.0"
  std::string width, widest;  // lanes now, and at most
};

std::vector<BusCard> cards_on_bus(const std::string& root) {
  std::vector<BusCard> cards;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root + "sys/bus/pci/devices", none)) {
    // Class 03 is display controllers; 10de is NVIDIA.
    if (word_in(entry.path() / "vendor") != "0x10de") continue;
    if (!word_in(entry.path() / "class").starts_with("0x03")) continue;
    cards.push_back({entry.path().filename().string(), word_in(entry.path() / "current_link_width"),
                     word_in(entry.path() / "max_link_width")});
  }
  std::ranges::sort(cards, {}, &BusCard::address);
  return cards;
}

/// Of each card's link a finding of its own: the driver counts cards in another order than the bus.
Finding look_at_link(const BusCard& card) {
  const std::string check = fmt::format("link {}", card.address);
  if (card.width.empty() || card.widest.empty())
    return Finding::ok(check, "how many lanes it has is not known");
  std::string found = fmt::format("x{} of x{}", card.width, card.widest);
  if (card.width == card.widest) return Finding::ok(check, std::move(found));
  return Finding::note(check, std::move(found), "all lanes of the card",
                       "look at the slot, its riser and the firmware's settings");
}

Finding look_at_device(const DeviceTable& table, uint32_t ordinal, const std::string& driver) {
  const std::string check = fmt::format("device cuda:{}", ordinal);
  try {
    const auto device = engine::OpenDevice::open(table, ordinal);
    const DeviceFacts& facts = device.facts();
    std::string found = fmt::format("{}, {} of {} free, compute capability {}.{}, driver {}",
                                    std::string(facts.name), bytes_text(facts.free_bytes),
                                    bytes_text(facts.memory_bytes), facts.capability / 10,
                                    facts.capability % 10, driver.empty() ? "unknown" : driver);
    try {
      const HostMemory memory = HostMemory::reserve(kPinnedBytes);
      (void)engine::PinnedMemory::pin(device, {memory.data(), memory.size()});
    } catch (const Error& error) {
      return Finding::note(check, fmt::format("{}; {}", found, error.what()),
                           fmt::format("{} of memory that can be pinned", bytes_text(kPinnedBytes)),
                           error.remedy());
    }
    return Finding::ok(check, found);
  } catch (const Error& error) {
    return Finding::note(check, error.what(), "a card that can be opened", error.remedy());
  }
}

}  // namespace

std::string driver_version(const std::string& root) {
  std::ifstream file(root + "proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);  // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  ..."
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    const bool is_version = word.find('.') != std::string::npos &&
                            word.find_first_not_of("0123456789.") == std::string::npos;
    if (is_version) return word;
  }
  return "";
}

std::vector<Finding> look_at_devices(const gpu_attn::CudaDevices& devices,
                                     const std::string& root) {
  const auto cards = cards_on_bus(root);
  const std::string driver = driver_version(root);
  if (devices.table == nullptr || devices.n_devices == 0) {
    if (cards.empty())
      return {Finding::ok("device", fmt::format("the CPU computes ({})", devices.reason))};
    return {Finding::note(
        "device",
        fmt::format("{}; the bus shows {} of NVIDIA's cards ({})", devices.reason, cards.size(),
                    cards.front().address),
        "a CUDA device; the CPU computes without",
        driver.empty()
            ? "install NVIDIA's driver; in a container, pass the device through (docker: "
              "--gpus all)"
            : fmt::format("the driver is {}: see what the reason names", driver))};
  }
  std::vector<Finding> findings;
  for (uint32_t i = 0; i < devices.n_devices; ++i)
    findings.push_back(look_at_device(*devices.table, i, driver));
  for (const BusCard& card : cards) findings.push_back(look_at_link(card));
  return findings;
}

}  // namespace strata::cli
