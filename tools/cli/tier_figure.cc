#include "tools/cli/tier_figure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using nlohmann::ordered_json;

std::string value_text(const TierFigure& figure, double value) {
  return figure.is_share ? fmt::format("{:.0f} %", 100 * value) : fmt::format("{:.2f}", value);
}

std::string verdict(const TierFigure& figure) {
  if (figure.wanted == 0) return "";
  return figure.is_reached() ? "ok" : "NOT REACHED";
}

}  // namespace

double TierFigure::gbytes_per_s() const {
  return static_cast<double>(bytes) / median(samples_s) / 1e9;
}

double TierFigure::value() const { return median(values); }

bool TierFigure::is_reached() const { return is_at_most ? value() <= wanted : value() >= wanted; }

ordered_json figure_json(const BenchSubject& subject, uint32_t n_depth, const TierFigure& figure) {
  ordered_json json = subject_json(subject);
  std::vector<double> samples_ns;
  samples_ns.reserve(figure.samples_s.size());
  for (const double seconds : figure.samples_s) samples_ns.push_back(std::round(seconds * 1e9));
  json.update(ordered_json{{"n_depth", n_depth},
                           {"depth_fill", fill_name(subject.fill)},
                           {"figure", figure.name},
                           {"formula", figure.formula},
                           {"formula_bytes", figure.formula_bytes},
                           {"bytes", figure.bytes},
                           {"median_ns", std::round(median(figure.samples_s) * 1e9)},
                           {"stddev_ns", std::round(standard_deviation(figure.samples_s) * 1e9)},
                           {"samples_ns", samples_ns},
                           {"gbytes_per_s", figure.gbytes_per_s()}});
  if (!figure.measure.empty()) {
    json["measure"] = figure.measure;
    json["value"] = figure.value();
    json["values"] = figure.values;
  }
  if (figure.wanted > 0) {
    json[figure.is_at_most ? "wanted_at_most" : "wanted_at_least"] = figure.wanted;
    json["ok"] = figure.is_reached();
  }
  if (!figure.note.empty()) json["note"] = figure.note;
  return json;
}

TierReport::TierReport(AnswerSink& sink, std::string format, BenchSubject subject, uint32_t n_depth)
    : sink_(sink),
      format_(std::move(format)),
      records_(sink, format_),
      subject_(std::move(subject)),
      n_depth_(n_depth) {}

void TierReport::add_row(const TierFigure& figure) {
  constexpr const char* kRow =
      "| {:<27} | {:>8} | {:>9} | {:>17} | {:>6} | {:>6} | {:<28} | {:>7} | {:<11} |\n";
  if (below_.empty()) {
    sink_.write(fmt::format(
        "{}, {} tokens{}, K and V {}/{}, {} threads; medians, lowest and highest\n\n",
        subject_.model_type, n_depth_, subject_.fill == DepthFill::kRandom ? " of random KV" : "",
        kv_codec_name(subject_.k_codec), kv_codec_name(subject_.v_codec), subject_.n_threads));
    sink_.write(
        fmt::format(kRow, "figure", "MB", "ms", "from - to", "GB/s", "value", "", "wanted", ""));
    sink_.write(
        fmt::format("| {:-<27} | {:->7}: | {:->8}: | {:->16}: | {:->5}: | {:->5}: | {:-<28} "
                    "| {:->6}: | {:-<11} |\n",
                    "", "", "", "", "", "", "", "", ""));
    below_ = "\n";
  }
  const auto [least, most] = std::ranges::minmax(figure.samples_s);
  std::string wanted;
  if (figure.wanted > 0)
    wanted = (figure.is_at_most ? "<= " : ">= ") + value_text(figure, figure.wanted);
  sink_.write(fmt::format(kRow, figure.name,
                          fmt::format("{:.1f}", static_cast<double>(figure.bytes) / 1e6),
                          fmt::format("{:.2f}", median(figure.samples_s) * 1e3),
                          fmt::format("{:.2f} - {:.2f}", least * 1e3, most * 1e3),
                          fmt::format("{:.2f}", figure.gbytes_per_s()),
                          figure.measure.empty() ? "" : value_text(figure, figure.value()),
                          figure.measure, wanted, verdict(figure)));
  below_ += fmt::format("- {}: {} = {} bytes", figure.name, figure.formula, figure.formula_bytes);
  if (figure.bytes != figure.formula_bytes) below_ += fmt::format(", COUNTED {}", figure.bytes);
  below_ += figure.note.empty() ? "\n" : fmt::format("; {}\n", figure.note);
}

void TierReport::add(const TierFigure& figure) {
  if (format_ == "md") return add_row(figure);
  records_.add(figure_json(subject_, n_depth_, figure));
}

void TierReport::finish() {
  if (format_ == "md") sink_.write(below_);
  records_.finish();
}

}  // namespace strata::cli
