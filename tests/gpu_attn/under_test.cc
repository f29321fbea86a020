#include "tests/gpu_attn/under_test.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace strata::gpu_test {

UnderTest::UnderTest(const DeviceTable& table, Device* device) : table_(table), device_(device) {
  check(table_.create_stream(device_, &stream_));
}

UnderTest::~UnderTest() {
  table_.wait_stream(stream_);
  for (void* memory : memory_) table_.release(device_, memory);
  table_.destroy_stream(stream_);
}

void UnderTest::check(int error) const {
  if (error != 0)
    throw std::runtime_error("error " + std::to_string(error) + ": " + table_.message(error));
}

void* UnderTest::make_bytes(uint64_t bytes) {
  void* memory = nullptr;
  check(table_.allocate(device_, std::max<uint64_t>(bytes, 1), &memory));
  memory_.push_back(memory);
  check(table_.fill(stream_, memory, 0xFF, std::max<uint64_t>(bytes, 1)));
  return memory;
}

void* UnderTest::upload_bytes(std::span<const std::byte> bytes) {
  void* memory = make_bytes(bytes.size());
  check(table_.copy(stream_, memory, bytes.data(), bytes.size()));
  check(table_.wait_stream(stream_));
  return memory;
}

void UnderTest::download_bytes(const void* from, std::span<std::byte> to) {
  check(table_.copy(stream_, to.data(), from, to.size()));
  check(table_.wait_stream(stream_));
}

void CaseReport::fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

void CaseReport::expect_near(std::span<const float> values, std::span<const double> wanted,
                             const std::function<double(uint64_t)>& tolerance,
                             const std::string& what) {
  if (values.size() != wanted.size()) return fail(what + ": sizes differ");
  for (uint64_t i = 0; i < values.size(); ++i) {
    ++n_compared_;
    const double value = values[i];
    if (value == wanted[i] || (std::isnan(value) && std::isnan(wanted[i]))) continue;
    const double share = std::abs(value - wanted[i]) / tolerance(i);
    if (!(share <= 1)) {
      char text[160];
      std::snprintf(text, sizeof text, "[%llu]: %.9g, wanted %.9g within %.3g",
                    static_cast<unsigned long long>(i), value, wanted[i], tolerance(i));
      fail(what + text);
    }
    worst_ = std::isnan(share) ? share : std::max(worst_, share);
  }
}

void CaseReport::expect_near(std::span<const float> values, std::span<const double> wanted,
                             double tolerance, const std::string& what) {
  expect_near(
      values, wanted, [tolerance](uint64_t) { return tolerance; }, what);
}

void CaseReport::expect_equal(std::span<const std::byte> values, std::span<const std::byte> wanted,
                              const std::string& what) {
  if (values.size() != wanted.size()) return fail(what + ": sizes differ");
  n_compared_ += values.size();
  const auto differ = std::ranges::mismatch(values, wanted);
  if (differ.in1 != values.end())
    fail(what + ": byte " + std::to_string(differ.in1 - values.begin()) + " differs");
}

void CaseReport::expect(bool is_true, const std::string& what) {
  ++n_compared_;
  if (!is_true) fail(what);
}

std::vector<GpuCase> all_cases() {
  std::vector<GpuCase> all;
  for (const auto& cases : {attend_cases(), linear_cases(), wide_linear_cases(), prefill_cases(),
                            row_cases(), copy_cases(), scan_cases(), step_cases()})
    all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

}  // namespace strata::gpu_test
