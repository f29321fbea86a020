// Our codebooks beside FAISS's of the same shape on the same keys: what training in 8 iterations on
// a small sample gives up. Skipped where FAISS is not installed; docs/adr/0006-codebooks.md has the
// figures.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/index/pq_fixture.h"

#ifdef STRATA_FAISS
#include <faiss/impl/ProductQuantizer.h>
#endif

namespace strata::index {
namespace {

using namespace testing;

TEST(PqFaiss, ErrorsAreNearThoseOfItsCodebooks) {
#ifdef STRATA_FAISS
  const KernelTable& kernels = cpu_attn::choose_kernels();
  for (const uint32_t head_dim : {64u, 128u}) {
    Keys keys = clustered_keys(f16_layout(head_dim), kSegmentBlocks, kernels, 1);
    const auto selector =
        SelectorSource(Method::kPq, {f16_layout(head_dim), 1, kSegmentBlocks}, kernels).make();
    observe_range(*selector, 0, keys, 0, kSegmentBlocks);
    const double ours = segment_error(*selector, keys, 0);

    constexpr size_t kKeys = size_t{kSegmentBlocks} * kBlockPositions;
    faiss::ProductQuantizer theirs(head_dim, kPqSubspaces, 6);
    theirs.cp.min_points_per_centroid = 1;  // no warning
    theirs.train(kKeys, keys.key(0));
    std::vector<uint8_t> codes(kKeys * theirs.code_size);
    theirs.compute_codes(keys.key(0), codes.data(), kKeys);
    std::vector<float> decoded(kKeys * head_dim);
    theirs.decode(codes.data(), decoded.data(), kKeys);
    double error = 0;
    for (size_t i = 0; i < decoded.size(); ++i) {
      const double gap = double{keys.key(0)[i]} - double{decoded[i]};
      error += gap * gap / kKeys;
    }
    printf("head_dim %u: mean squared error %.2f, FAISS %.2f\n", head_dim, ours, error);
    EXPECT_LT(ours, 1.1 * error);
  }
#else
  GTEST_SKIP() << "FAISS is not installed";
#endif
}

}  // namespace
}  // namespace strata::index
