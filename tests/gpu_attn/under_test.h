// tests/gpu_attn/under_test.h - a device whose kernels are judged: by the emulator in CI
// (gpu_attn_test), and by the card through tools/gpu. Why: the same cases run in both, so they know
// neither GoogleTest nor CUDA.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/device_table.h"

namespace strata::gpu_test {

/// Memory and a stream of a device for one case; given back at its end. Errors of the device are
/// thrown as std::runtime_error with its words.
class UnderTest {
 public:
  UnderTest(const DeviceTable& table, Device* device);
  ~UnderTest();
  UnderTest(const UnderTest&) = delete;
  UnderTest& operator=(const UnderTest&) = delete;

  const DeviceTable& table() const { return table_; }
  Device* device() const { return device_; }
  const DeviceKernels& kernels() const { return table_.kernels; }
  DeviceStream* stream() const { return stream_; }

  /// Throws where `error` is one.
  void check(int error) const;

  /// n values on the device, every byte 0xFF before they are written: NaN as f16 and f32.
  template <class T>
  T* make(uint64_t n) {
    return static_cast<T*>(make_bytes(n * sizeof(T)));
  }
  template <class T>
  T* upload(std::span<const T> values) {
    return static_cast<T*>(upload_bytes(std::as_bytes(values)));
  }
  template <class T>
  T* upload(const std::vector<T>& values) {
    return upload(std::span<const T>(values));
  }
  /// Waits for the stream first.
  template <class T>
  std::vector<T> download(const T* values, uint64_t n) {
    std::vector<T> out(n);
    download_bytes(values, std::as_writable_bytes(std::span(out)));
    return out;
  }

 private:
  void* make_bytes(uint64_t bytes);
  void* upload_bytes(std::span<const std::byte> bytes);
  void download_bytes(const void* from, std::span<std::byte> to);

  const DeviceTable& table_;
  Device* device_;
  DeviceStream* stream_ = nullptr;
  std::vector<void*> memory_;
};

/// What a case found. A case that compares nothing fails.
class CaseReport {
 public:
  /// Compares each value with what it should be: |value - wanted| <= tolerance(i). NaN never
  /// passes, unless both are; infinities are equal or not.
  void expect_near(std::span<const float> values, std::span<const double> wanted,
                   const std::function<double(uint64_t)>& tolerance, const std::string& what);
  void expect_near(std::span<const float> values, std::span<const double> wanted, double tolerance,
                   const std::string& what);
  void expect_equal(std::span<const std::byte> values, std::span<const std::byte> wanted,
                    const std::string& what);
  void expect(bool is_true, const std::string& what);

  const std::string& failure() const { return failure_; }  // of the first, empty where none
  double worst() const { return worst_; }  // the largest error as a share of its tolerance
  uint64_t n_compared() const { return n_compared_; }

 private:
  void fail(const std::string& what);

  std::string failure_;
  double worst_ = 0;
  uint64_t n_compared_ = 0;
};

struct GpuCase {
  std::string name;  // "attend/f16/d128/group4/1000 positions"
  std::function<void(UnderTest&, CaseReport&)> run;
  bool is_small = true;  // also under sanitizers, and by the emulator; else on a card alone
};

/// Every case of a subject, in this folder's <subject>_cases.cc.
std::vector<GpuCase> attend_cases();
std::vector<GpuCase> linear_cases();
std::vector<GpuCase> wide_linear_cases();
std::vector<GpuCase> prefill_cases();
std::vector<GpuCase> row_cases();
std::vector<GpuCase> copy_cases();
std::vector<GpuCase> scan_cases();
std::vector<GpuCase> step_cases();

/// All of them.
std::vector<GpuCase> all_cases();

}  // namespace strata::gpu_test
