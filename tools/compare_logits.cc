// compare_logits VOCAB_SIZE REFERENCE OTHER... - how far dumps of logits over the same ids are from
// a reference. All are raw f32 [n_tokens, vocab_size], as dump_logits writes them. Prints, for P of
// the reference and Q of the other: KL(P || Q) in nats, mean with its standard error and max; the
// share of positions with the same likeliest token, and the largest lead (log P of the first minus
// log P of the second) that was lost; the largest change of log P among the reference's five
// likeliest.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace {

using namespace strata;

constexpr uint32_t kTop = 5;
constexpr uint32_t kVocabSizeMax = 1u << 24;

/// One row of logits at a time.
class LogitRows {
 public:
  LogitRows(const char* path, uint32_t vocab_size)
      : path_(path), file_(path, std::ios::binary), logits_(vocab_size) {
    if (!file_) throw Error(ErrorCode::kIo, "cannot open", path);
  }
  const char* path() const { return path_; }
  std::span<const float> logits() const { return logits_; }
  double log_sum() const { return log_sum_; }
  uint32_t likeliest() const { return likeliest_; }

  bool next() {
    const auto bytes = static_cast<std::streamsize>(logits_.size() * sizeof(float));
    file_.read(reinterpret_cast<char*>(logits_.data()), bytes);
    if (file_.gcount() == 0) return false;
    if (file_.gcount() != bytes)
      throw Error(ErrorCode::kBadFile, "the last row is cut, or the vocabulary is another", path_);
    const auto max = std::ranges::max_element(logits_);
    likeliest_ = static_cast<uint32_t>(max - logits_.begin());
    double sum = 0;
    for (const float logit : logits_) sum += std::exp(double{logit} - *max);
    log_sum_ = *max + std::log(sum);
    return true;
  }

 private:
  const char* path_;
  std::ifstream file_;
  std::vector<float> logits_;
  double log_sum_ = 0;
  uint32_t likeliest_ = 0;
};

/// What every comparison with a row of the reference needs.
struct ReferenceRow {
  std::vector<double> p;
  std::vector<uint32_t> top;  // the kTop likeliest, likeliest first
  double lead = 0;

  void read(const LogitRows& rows) {
    const auto logits = rows.logits();
    p.resize(logits.size());
    top.clear();
    for (uint32_t i = 0; i < logits.size(); ++i) {
      p[i] = std::exp(logits[i] - rows.log_sum());
      if (top.size() == kTop && logits[i] <= logits[top.back()]) continue;
      const auto above = [&](uint32_t other) { return logits[other] >= logits[i]; };
      top.insert(std::ranges::find_if_not(top, above), i);
      if (top.size() > kTop) top.pop_back();
    }
    lead = logits[top[0]] - logits[top[1]];
  }
};

struct Totals {
  uint64_t n = 0;
  uint64_t n_same_top = 0;
  double kl = 0, kl_squares = 0, kl_max = 0;
  double lost_lead_max = 0;
  double top_change_max = 0;

  void add(const LogitRows& reference, const ReferenceRow& row, const LogitRows& other) {
    const auto a = reference.logits();
    const auto b = other.logits();
    const double shift = reference.log_sum() - other.log_sum();
    double row_kl = 0;  // sum of P (log P - log Q); the sum of P is 1 up to rounding
    for (size_t i = 0; i < a.size(); ++i) row_kl += row.p[i] * (double{a[i]} - b[i] - shift);
    ++n;
    kl += row_kl;
    kl_squares += row_kl * row_kl;
    kl_max = std::max(kl_max, row_kl);
    for (const uint32_t i : row.top)
      top_change_max = std::max(top_change_max, std::abs(double{a[i]} - b[i] - shift));
    const bool same = other.likeliest() == reference.likeliest();
    n_same_top += same ? 1 : 0;
    if (!same) lost_lead_max = std::max(lost_lead_max, row.lead);
  }

  void print(const char* path) const {
    const auto count = static_cast<double>(n);
    const double mean = kl / count;
    const double variance = std::max(0.0, kl_squares / count - mean * mean);
    fmt::print("{}: {} positions\n", path, n);
    fmt::print("  KL          mean {:.3e} +- {:.1e}, max {:.3e}\n", mean,
               std::sqrt(variance / count), kl_max);
    fmt::print("  same top-1  {:.2f} %, largest lead lost {:.3e}\n",
               100.0 * static_cast<double>(n_same_top) / count, lost_lead_max);
    fmt::print("  top-{} log P changes by at most {:.3e}\n", kTop, top_change_max);
  }
};

void run(std::span<char*> arguments) {
  const std::string_view text = arguments[0];
  uint32_t vocab_size = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), vocab_size);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || vocab_size < 2 ||
      vocab_size > kVocabSizeMax)
    throw Error(ErrorCode::kUsage, fmt::format("wanted 2 .. {}, found {}", kVocabSizeMax, text),
                "VOCAB_SIZE");
  LogitRows reference(arguments[1], vocab_size);
  std::vector<LogitRows> others;
  for (const char* path : arguments.subspan(2)) others.emplace_back(path, vocab_size);
  std::vector<Totals> totals(others.size());
  ReferenceRow row;
  while (reference.next()) {
    row.read(reference);
    for (size_t i = 0; i < others.size(); ++i) {
      if (!others[i].next())
        throw Error(ErrorCode::kBadFile, fmt::format("ends after {} rows", totals[i].n),
                    others[i].path());
      totals[i].add(reference, row, others[i]);
    }
  }
  if (totals[0].n == 0) throw Error(ErrorCode::kBadFile, "no rows", reference.path());
  for (size_t i = 0; i < others.size(); ++i) {
    if (others[i].next())
      throw Error(ErrorCode::kBadFile, fmt::format("has more than {} rows", totals[i].n),
                  others[i].path());
    totals[i].print(others[i].path());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: compare_logits VOCAB_SIZE REFERENCE OTHER...\n");
    return 2;
  }
  try {
    run(std::span(argv, static_cast<size_t>(argc)).subspan(1));
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  }
  return 0;
}
