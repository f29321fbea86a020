#include "tools/cli/eval_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "tools/cli/eval_report.h"
#include "tools/cli/html_page.h"

namespace strata::cli {
namespace {

using eval::EvalRow;

constexpr double kWidth = 640, kHeight = 360, kLeft = 70, kRight = 130, kTop = 20, kBottom = 45;
constexpr double kLeastDivergence = 1e-5;  // nat: what is less is drawn here
constexpr uint32_t kColours = 6;           // of curves, in the style sheet

struct Point {
  double share, quality;
  std::string budget;
};
struct Curve {
  std::string method;
  std::vector<Point> points;  // by share
};

/// One curve per method, of the rows that have a quality.
std::vector<Curve> curves_of(std::span<const EvalRow> rows,
                             const std::function<std::optional<double>(const EvalRow&)>& quality) {
  std::vector<Curve> curves;
  for (const EvalRow& row : rows) {
    const auto value = quality(row);
    if (!value) continue;
    const std::string method = eval::method_text(row.method, row.reads_sparsely);
    auto curve = std::ranges::find(curves, method, &Curve::method);
    if (curve == curves.end()) curve = curves.insert(curves.end(), Curve{method, {}});
    curve->points.push_back({row.kv_read_share, *value, row.budget});
  }
  for (Curve& curve : curves) std::ranges::sort(curve.points, {}, &Point::share);
  return curves;
}

/// From a value to a place between 0 (bottom, left) and 1.
struct Axis {
  double from, to;
  bool is_log;
  std::string title;
  std::vector<double> ticks;
  double place(double value) const {
    const double at = is_log ? std::log(std::max(value, from) / from) / std::log(to / from)
                             : (value - from) / (to - from);
    return std::clamp(at, 0.0, 1.0);
  }
};

/// Powers of ten that hold the values, as far as they lie between `least` and `most`.
Axis log_axis(const std::vector<double>& values, double least, double most,
              const std::string& title) {
  const double low = std::max(least, *std::ranges::min_element(values));
  const double high = std::max(low, *std::ranges::max_element(values));
  Axis axis{.from = 0, .to = 0, .is_log = true, .title = title, .ticks = {}};
  axis.to = std::min(most, std::pow(10, std::ceil(std::log10(high))));
  axis.from = std::min(axis.to / 10, std::pow(10, std::floor(std::log10(low))));
  const long n_steps = std::lround(std::log10(axis.to / axis.from));
  for (long step = 0; step <= n_steps; ++step) axis.ticks.push_back(axis.from * std::pow(10, step));
  return axis;
}

double x_of(const Axis& axis, double value) {
  return kLeft + axis.place(value) * (kWidth - kLeft - kRight);
}
double y_of(const Axis& axis, double value) {
  return kHeight - kBottom - axis.place(value) * (kHeight - kTop - kBottom);
}

std::string axes_svg(const Axis& x, const Axis& y) {
  std::string out = fmt::format(R"(<path class="axis" d="M{0} {1}V{2}H{3}"/>)", kLeft, kTop,
                                kHeight - kBottom, kWidth - kRight);
  for (const double tick : x.ticks)
    out += fmt::format(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{:g} %</text>)",
                       x_of(x, tick), kHeight - kBottom + 18, 100 * tick);
  for (const double tick : y.ticks)
    out += fmt::format(R"(<text x="{}" y="{:.1f}" text-anchor="end">{:g}</text>)", kLeft - 6,
                       y_of(y, tick) + 4, tick);
  out += fmt::format(R"(<text x="{}" y="{}" text-anchor="middle">{}</text>)",
                     (kLeft + kWidth - kRight) / 2, kHeight - 8, html_escaped(x.title));
  out += fmt::format(R"(<text x="14" y="{0}" text-anchor="middle" )"
                     R"svg(transform="rotate(-90 14 {0})">{1}</text>)svg",
                     (kTop + kHeight - kBottom) / 2, html_escaped(y.title));
  return out;
}

std::string plot_svg(const std::vector<Curve>& curves, const Axis& x, const Axis& y) {
  std::string out = fmt::format(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">)", kWidth,
                                kHeight, html_escaped(y.title + " against " + x.title));
  out += axes_svg(x, y);
  for (size_t i = 0; i < curves.size(); ++i) {
    const std::string colour = fmt::format("var(--c{})", i % kColours);
    std::string line, dots;
    for (const Point& point : curves[i].points) {
      const double at_x = x_of(x, point.share), at_y = y_of(y, point.quality);
      line += fmt::format("{:.1f},{:.1f} ", at_x, at_y);
      dots += fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"><title>)"
                          R"({} {}: {:.1f} % read, {:g}</title></circle>)",
                          at_x, at_y, colour, html_escaped(curves[i].method),
                          html_escaped(point.budget), 100 * point.share, point.quality);
    }
    out += fmt::format(R"(<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>)", line,
                       colour);
    out += dots;
    const double at = kTop + 10 + 18.0 * static_cast<double>(i);
    out += fmt::format(R"(<text x="{}" y="{}" style="fill:{}">{}</text>)", kWidth - kRight + 16, at,
                       colour, html_escaped(curves[i].method));
  }
  return out + "</svg>\n";
}

std::vector<double> shares_of(const std::vector<Curve>& curves) {
  std::vector<double> shares;
  for (const Curve& curve : curves)
    for (const Point& point : curve.points) shares.push_back(point.share);
  return shares;
}

std::string divergence_plot(std::span<const EvalRow> rows) {
  const bool has_all =
      std::ranges::any_of(rows, [](const EvalRow& row) { return row.text == eval::kAllTexts; });
  const auto curves = curves_of(rows, [&](const EvalRow& row) -> std::optional<double> {
    if (!row.agreement || (has_all && row.text != eval::kAllTexts)) return std::nullopt;
    return std::max(row.agreement->kl.mean, kLeastDivergence);
  });
  if (curves.empty()) return "";
  std::vector<double> values;
  for (const Curve& curve : curves)
    for (const Point& point : curve.points) values.push_back(point.quality);
  return "<h2>Divergence from exact attention (less is better)</h2>\n" +
         plot_svg(curves, log_axis(shares_of(curves), 1e-4, 1, "K and V read"),
                  log_axis(values, kLeastDivergence, 100, "KL, nat"));
}

/// Of each task at each length.
std::string task_plots(std::span<const EvalRow> rows) {
  std::vector<std::pair<std::string, uint64_t>> seen;
  std::string out;
  for (const EvalRow& row : rows) {
    const std::pair key{row.task, row.context};
    if (!row.score || std::ranges::find(seen, key) != seen.end()) continue;
    seen.push_back(key);
    const auto curves = curves_of(rows, [&](const EvalRow& of) {
      return of.task == key.first && of.context == key.second ? of.score : std::nullopt;
    });
    const Axis y{.from = 0,
                 .to = 1,
                 .is_log = false,
                 .title = "right answers",
                 .ticks = {0, 0.25, 0.5, 0.75, 1}};
    out += fmt::format("<h2>{}, {} tokens (exact attention: {:.0f} %)</h2>\n",
                       html_escaped(key.first), key.second, 100 * row.exact_score.value_or(0)) +
           plot_svg(curves, log_axis(shares_of(curves), 1e-4, 1, "K and V read"), y);
  }
  return out;
}

std::string html_table(const EvalTable& table) {
  const auto line = [&](const std::vector<std::string>& cells, const char* tag) {
    std::string out = "<tr>";
    for (size_t i = 0; i < cells.size(); ++i)
      out += fmt::format("<{0}{1}>{2}</{0}>", tag, table.is_text[i] ? "" : R"( class="number")",
                         html_escaped(cells[i]));
    return out + "</tr>\n";
  };
  std::string out = "<div class=\"wide\"><table>\n" + line(table.titles, "th");
  for (const auto& cells : table.rows) out += line(cells, "td");
  return out + "</table></div>\n";
}

}  // namespace

std::string eval_page(const EvalSubject& subject, std::span<const EvalRow> rows) {
  std::string body = fmt::format(
      "<p>{}, {}. The context is read exactly; what follows goes through the "
      "method.</p>\n",
      html_escaped(subject.version), html_escaped(subject.device));
  body += divergence_plot(rows) + task_plots(rows) + "<h2>Figures</h2>\n";
  for (const EvalTable& table : eval_tables(rows)) body += html_table(table);
  return html_page("strata eval: " + subject.model, subject.model, body);
}

}  // namespace strata::cli
