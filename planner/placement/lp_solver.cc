#include "planner/placement/lp_solver.h"

#include <CbcModel.hpp>
#include <CoinPackedMatrix.hpp>
#include <OsiClpSolverInterface.hpp>
#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>

#include "base/check.h"

namespace strata::planner {

struct LpAccess {
  static const auto& columns(const LpModel& model) { return model.columns_; }
  static const auto& rows(const LpModel& model) { return model.rows_; }
};

namespace {

double coin_bound(double bound) {
  return std::isinf(bound) ? std::copysign(COIN_DBL_MAX, bound) : bound;
}

/// An object of the solver, which an exception must not destroy: left by std::bad_alloc, it holds
/// what its destructor asserts that it does not. What it has is lost then.
template <class T>
class Kept {
 public:
  template <class... Arguments>
  explicit Kept(const Arguments&... arguments) : of_(std::make_unique<T>(arguments...)) {}
  ~Kept() {
    if (std::uncaught_exceptions() > n_exceptions_) (void)of_.release();
  }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  T& operator*() const { return *of_; }

 private:
  std::unique_ptr<T> of_;
  int n_exceptions_ = std::uncaught_exceptions();
};

void load(const LpModel& model, OsiClpSolverInterface& solver) {
  const auto& columns = LpAccess::columns(model);
  const auto& rows = LpAccess::rows(model);
  solver.messageHandler()->setLogLevel(0);
  solver.getModelPtr()->setLogLevel(0);
  // Clp's handler of Ctrl-C would take the place of the program's while it solves, and lose one
  // that comes then.
  constexpr int kInterruptHandling = 2, kOff = 1;
  ClpSolve options;
  options.setSpecialOption(kInterruptHandling, kOff);
  solver.setSolveOptions(options);
  CoinPackedMatrix matrix(false, 0, 0);  // by rows
  matrix.setDimensions(0, static_cast<int>(columns.size()));
  std::vector<double> row_lower, row_upper, lower, upper, cost;
  for (const auto& row : rows) {
    std::vector<int> indexes;
    std::vector<double> factors;
    for (const LpTerm& term : row.terms) {
      const auto column = static_cast<int>(term.column);
      const auto found = std::ranges::find(indexes, column);
      if (found != indexes.end()) {
        factors[static_cast<size_t>(found - indexes.begin())] += term.factor;
        continue;
      }
      indexes.push_back(column);
      factors.push_back(term.factor);
    }
    matrix.appendRow(static_cast<int>(indexes.size()), indexes.data(), factors.data());
    row_lower.push_back(coin_bound(row.lower));
    row_upper.push_back(coin_bound(row.upper));
  }
  for (const auto& column : columns) {
    lower.push_back(coin_bound(column.lower));
    upper.push_back(coin_bound(column.upper));
    cost.push_back(column.cost);
  }
  solver.loadProblem(matrix, lower.data(), upper.data(), cost.data(), row_lower.data(),
                     row_upper.data());
}

LpSolution solve_linear(OsiClpSolverInterface& solver) {
  LpSolution solution;
  solver.initialSolve();
  solution.n_iterations = static_cast<uint32_t>(solver.getIterationCount());
  if (solver.isProvenOptimal()) {
    solution.status = LpStatus::kOptimal;
  } else if (solver.isProvenPrimalInfeasible()) {
    solution.status = LpStatus::kInfeasible;
  } else if (solver.isProvenDualInfeasible()) {
    solution.status = LpStatus::kUnbounded;
  }
  if (solution.status != LpStatus::kOptimal) return solution;
  solution.objective = solver.getObjValue();
  solution.values.assign(solver.getColSolution(), solver.getColSolution() + solver.getNumCols());
  solution.row_duals.assign(solver.getRowPrice(), solver.getRowPrice() + solver.getNumRows());
  return solution;
}

}  // namespace

uint32_t LpModel::add_column(double lower, double upper, double cost, bool is_whole) {
  columns_.push_back({lower, upper, cost, is_whole});
  return n_columns() - 1;
}

uint32_t LpModel::add_row(double lower, double upper, std::span<const LpTerm> terms) {
  for (const LpTerm& term : terms)
    STRATA_CHECK(term.column < n_columns() && std::isfinite(term.factor), "column %u of %u",
                 term.column, n_columns());
  rows_.push_back({lower, upper, {terms.begin(), terms.end()}});
  return n_rows() - 1;
}

void LpModel::set_bounds(uint32_t column, double lower, double upper) {
  columns_.at(column).lower = lower;
  columns_.at(column).upper = upper;
}

bool LpModel::has_whole_columns() const { return std::ranges::any_of(columns_, &Bounds::is_whole); }

LpSolution solve(const LpModel& model) {
  const Kept<OsiClpSolverInterface> kept_solver;
  OsiClpSolverInterface& solver = *kept_solver;
  load(model, solver);
  if (!model.has_whole_columns()) return solve_linear(solver);
  const auto& columns = LpAccess::columns(model);
  for (size_t i = 0; i < columns.size(); ++i)
    if (columns[i].is_whole) solver.setInteger(static_cast<int>(i));
  const Kept<CbcModel> kept_branching(solver);
  CbcModel& branching = *kept_branching;
  branching.setLogLevel(0);
  branching.branchAndBound();
  LpSolution solution;
  if (branching.isProvenInfeasible()) solution.status = LpStatus::kInfeasible;
  if (branching.isContinuousUnbounded()) solution.status = LpStatus::kUnbounded;
  if (!branching.isProvenOptimal() || branching.bestSolution() == nullptr) return solution;
  // The duals are those of the program that is left where the whole numbers are fixed.
  const Kept<OsiClpSolverInterface> kept_fixed;
  OsiClpSolverInterface& fixed = *kept_fixed;
  load(model, fixed);
  for (size_t i = 0; i < columns.size(); ++i)
    if (columns[i].is_whole) {
      const double value = std::round(branching.bestSolution()[i]);
      fixed.setColBounds(static_cast<int>(i), value, value);
    }
  solution = solve_linear(fixed);
  solution.n_iterations += static_cast<uint32_t>(branching.getIterationCount());
  return solution;
}

}  // namespace strata::planner
