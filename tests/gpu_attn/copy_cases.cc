// Blocks copied by one launch: every byte arrives, and none beside a block changes.
#include <random>

#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {
namespace {

void copy_case(UnderTest& device, CaseReport& report, uint32_t block_bytes, uint32_t n_blocks) {
  std::mt19937 random(block_bytes + n_blocks);
  const uint64_t stride = block_bytes + 64;  // with room beside each block
  std::vector<std::byte> source(stride * n_blocks);
  for (std::byte& byte : source) byte = static_cast<std::byte>(random());
  const std::byte* from = device.upload(source);
  std::byte* to = device.make<std::byte>(source.size());
  std::vector<const std::byte*> from_list;
  std::vector<std::byte*> to_list;
  std::vector<std::byte> wanted(source.size(), std::byte{0xFF});
  for (uint32_t i = 0; i < n_blocks; ++i) {
    const uint64_t place = uint64_t{n_blocks - 1 - i} * stride;  // backwards
    from_list.push_back(from + i * stride);
    to_list.push_back(to + place);
    std::memcpy(wanted.data() + place, source.data() + i * stride, block_bytes);
  }
  device.check(device.kernels().copy_blocks(device.stream(), {.from = device.upload(from_list),
                                                              .to = device.upload(to_list),
                                                              .n_blocks = n_blocks,
                                                              .block_bytes = block_bytes}));
  const auto copied = device.download(to, wanted.size());
  report.expect_equal(std::as_bytes(std::span(copied)), wanted, "copied");
}

void words_case(UnderTest& device, CaseReport& report, uint32_t n) {
  std::mt19937_64 random(n);
  std::vector<uint64_t> wanted(uint64_t{3} * n + 5, UINT64_MAX);
  std::vector<uint32_t> index;
  std::vector<uint64_t> value;
  for (uint32_t i = 0; i < n; ++i) {
    index.push_back(3 * (n - 1 - i) + 2);
    value.push_back(random());
    wanted[index.back()] = value.back();
  }
  auto* words = device.make<uint64_t>(wanted.size());
  device.check(device.kernels().set_words(
      device.stream(),
      {.words = words, .index = device.upload(index), .value = device.upload(value), .n = n}));
  const auto found = device.download(words, wanted.size());
  report.expect_equal(std::as_bytes(std::span(found)), std::as_bytes(std::span(wanted)), "words");
}

}  // namespace

std::vector<GpuCase> copy_cases() {
  std::vector<GpuCase> cases;
  for (const uint32_t n : {1u, 300u})
    cases.push_back({"words/" + std::to_string(n), [n](UnderTest& device, CaseReport& report) {
                       words_case(device, report, n);
                     }});
  for (const auto& [block_bytes, n_blocks] :
       {std::pair{16u, 1u}, {8192u, 5u}, {4352u, 3u}, {16384u, 2u}, {20032u, 1u}})
    cases.push_back({"copy/" + std::to_string(block_bytes) + " bytes/" + std::to_string(n_blocks),
                     [=](UnderTest& device, CaseReport& report) {
                       copy_case(device, report, block_bytes, n_blocks);
                     }});
  return cases;
}

}  // namespace strata::gpu_test
