// planner/placement/lp_solver.h - linear programs with or without whole numbers, and their solution
// by COIN-OR's Clp and Cbc. No type of theirs is seen here.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace strata::planner {

inline constexpr double kLpInfinity = std::numeric_limits<double>::infinity();

struct LpTerm {
  uint32_t column;
  double factor;
};

/// Minimise the sum of cost * value within the bounds of columns and rows. Figures near 1 are
/// solved exactly, bytes and seconds side by side are not: the caller scales.
class LpModel {
 public:
  uint32_t add_column(double lower, double upper, double cost, bool is_whole = false);
  /// lower <= sum of terms <= upper; a column that is named twice counts twice.
  uint32_t add_row(double lower, double upper, std::span<const LpTerm> terms);
  void set_bounds(uint32_t column, double lower, double upper);

  uint32_t n_columns() const { return static_cast<uint32_t>(columns_.size()); }
  uint32_t n_rows() const { return static_cast<uint32_t>(rows_.size()); }
  bool has_whole_columns() const;

 private:
  friend struct LpAccess;
  struct Bounds {
    double lower, upper, cost;
    bool is_whole;
  };
  struct Row {
    double lower, upper;
    std::vector<LpTerm> terms;
  };
  std::vector<Bounds> columns_;
  std::vector<Row> rows_;
};

enum class LpStatus : uint8_t { kOptimal, kInfeasible, kUnbounded, kStopped };

struct LpSolution {
  LpStatus status = LpStatus::kStopped;
  double objective = 0;
  std::vector<double> values;  // [n_columns]
  /// [n_rows]: by how much the objective grows where the row's bound that holds grows by one; of a
  /// program with whole numbers, these being fixed at their values.
  std::vector<double> row_duals;
  uint32_t n_iterations = 0;
};

/// Errors: none; a program without a solution has a status. Cost: milliseconds for hundreds of
/// columns. Threads: concurrent calls are independent; the same model gives the same solution.
LpSolution solve(const LpModel& model);

}  // namespace strata::planner
