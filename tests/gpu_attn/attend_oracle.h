// tests/gpu_attn/attend_oracle.h - tables of random KV blocks on a device, and their attention in
// double precision with the distance that rounding may put between the two.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/kv_layout.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {

/// What attention is asked of. Positions of the rows are first_position, first_position + 1, ...
struct AttendShapeDrawn {
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t head_dim = 128;
  uint32_t n_kv_heads = 1;
  uint32_t group = 4;
  uint32_t n_rows = 1;
  uint32_t first_position = 0;  // of head 0
  uint32_t head_shift = 0;      // positions by which each head's rows stand before its neighbour's
  uint32_t first_block = 0;
  uint32_t window = 0;
  uint32_t split_blocks = 8;
  uint32_t n_more_blocks = 0;  // of the table, beyond the last row's
  uint32_t n_more_splits = 0;  // beyond those that the table needs
  double q_deviation = 0;      // of q's elements; 0 = 1 / sqrt(head_dim)
  uint32_t n_q_dims = 0;       // of q that are not zero; 0 = all
  double v_deviation = 1;
  double v_outlier = 0;  // one position in 50 has values as large as this; 0 = none
};

uint32_t last_position(const AttendShapeDrawn& shape);
uint32_t n_table_blocks(const AttendShapeDrawn& shape);
uint32_t n_splits(const AttendShapeDrawn& shape);
uint64_t n_queries(const AttendShapeDrawn& shape);  // of all rows and heads

/// Blocks of every KV head in an order of their own. What no position up to the last row's has
/// written is 0xFF: NaN as f16.
class KvTable {
 public:
  KvTable(const AttendShapeDrawn& shape, std::mt19937& random);

  /// The blocks on the device: [n_kv_heads][n_table_blocks].
  const std::byte* const* upload(UnderTest& device) const;

  double k(uint32_t head, uint32_t position, uint32_t dim) const;
  double v(uint32_t head, uint32_t position, uint32_t dim) const;
  /// By what v's stored number is multiplied: 1 for f16.
  double v_scale(uint32_t head, uint32_t position, uint32_t dim) const;
  const KvLayout& layout() const { return layout_; }

 private:
  uint64_t place(uint32_t head, uint32_t block) const;
  double element(KvCodec codec, uint64_t part, uint64_t i) const;
  double scale(KvCodec codec, uint64_t part, uint32_t dim, uint32_t position) const;
  /// 32 values by a codec, `stride` elements apart, and their scale.
  void store(KvCodec codec, uint64_t part, uint64_t scales, uint64_t first, uint32_t stride,
             uint32_t dim, uint32_t row, const std::vector<float>& values);

  AttendShapeDrawn shape_;
  KvLayout layout_;
  std::vector<uint32_t> order_;  // where a block of the table lies
  std::vector<std::byte> bytes_;
};

/// Queries [n_kv_heads][n_rows][group, head_dim].
std::vector<float> draw_queries(const AttendShapeDrawn& shape, std::mt19937& random);

/// A query's partial over the positions of a split, and what rounding may change.
struct PartialWanted {
  double m, l;
  std::vector<double> o;
  double m_tolerance, l_tolerance;
  std::vector<double> o_tolerance;
};

/// q [head_dim] of a row; positions of `split`.
PartialWanted attend_double(const AttendShapeDrawn& shape, const KvTable& table, const float* q,
                            uint32_t head, uint32_t row, uint32_t split);

/// Cases of merging partials, which attend_cases() lists beside its own.
std::vector<GpuCase> merge_cases();

}  // namespace strata::gpu_test
