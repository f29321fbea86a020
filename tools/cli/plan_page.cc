#include "tools/cli/plan_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/byte_text.h"
#include "tools/cli/html_page.h"
#include "tools/cli/notices.h"
#include "tools/cli/plan_words.h"

namespace strata::cli {
namespace {

using planner::PlanPart;
using planner::PlanTier;

constexpr double kWidth = 900, kLeft = 90, kLane = 26, kBar = 18;
constexpr size_t kEventsMax = 4000;  // drawn of a token; a browser shows no more

std::string svg(double height, const std::string& label, const std::string& inside) {
  return fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\">{}</svg>\n",
                     kWidth, height, html_escaped(label), inside);
}

std::string box(double x, double y, double width, double height, int colour,
                const std::string& title) {
  return fmt::format(
      "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" "
      "fill=\"var(--c{})\"><title>{}</title></rect>",
      x, y, std::max(width, 0.3), height, colour, html_escaped(title));
}

std::string words(double x, double y, const std::string& text, const char* anchor = "start") {
  return fmt::format(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>)", x, y, anchor,
                     html_escaped(text));
}

std::string tier_bars(const PlanAnswer& answer) {
  std::string out;
  double y = 0;
  for (const NamedTier& tier : tiers_of(answer)) {
    struct Part {
      const char* what;
      double gb;
    };
    const Part parts[] = {{"weights", tier.use.weights_gb},
                          {"K and V", tier.use.kv_gb},
                          {"index", tier.use.index_gb},
                          {"buffers", tier.use.buffers_gb}};
    const double room = kWidth - kLeft;
    const double per_gb = tier.use.budget_gb > 0 ? room / tier.use.budget_gb : 0;
    out += words(0, y + 14, tier.name);
    out += fmt::format(R"(<rect class="axis" x="{}" y="{:.1f}" width="{}" height="{}"/>)", kLeft, y,
                       room, kBar);
    double x = kLeft;
    int colour = 0;
    for (const Part& part : parts) {
      const int of = colour++;
      if (part.gb <= 0) continue;
      out += box(x, y, part.gb * per_gb, kBar, of,
                 fmt::format("{}: {} {}", tier.name, part.what, size_text(part.gb)));
      x += part.gb * per_gb;
    }
    out += words(
        kWidth, y + kBar + 13,
        fmt::format("{} free of {}", size_text(tier.use.free_gb()), size_text(tier.use.budget_gb)),
        "end");
    y += kBar + 24;
  }
  const char* names[] = {"weights", "K and V", "index", "buffers"};
  for (int i = 0; i < 4; ++i) {
    const double x = kLeft + 110.0 * i;
    out += box(x, y, 12, 12, i, names[i]) + words(x + 17, y + 11, names[i]);
  }
  return svg(y + 20, "what each tier holds", out);
}

/// A row for each layer: on the left where its weights are, those of attention above those of the
/// FFN where they live apart; on the right the shares of its K and V.
std::string layer_map(const PlanAnswer& answer) {
  const auto places = planner::weight_tiers(answer.problem, answer.plan.layers);
  const double row = std::clamp(700.0 / static_cast<double>(places.size()), 5.0, 16.0);
  const double column = 130, kv_left = kLeft + 3 * column + 40;
  const char* tiers[] = {"HBM", "DRAM", "model file"};
  std::string out = words(0, 12, "layer") + words(kv_left, 12, "K and V: HBM, DRAM, disk");
  for (int i = 0; i < 3; ++i) out += words(kLeft + column * i, 12, tiers[i]);
  for (size_t g = 0; g < answer.problem.groups.size(); ++g) {
    const planner::LayerGroup& group = answer.problem.groups[g];
    const planner::GroupPlace& kv = answer.plan.layers.groups[g];
    for (const uint32_t layer : group.layers) {
      const double y = 20 + row * layer, height = row - 1;
      if (layer % 8 == 0 || row > 12) out += words(0, y + height - 1, std::to_string(layer));
      const auto weights = [&](PlanTier in, double from, double part, const char* what) {
        const auto tier = static_cast<int>(in);
        out += box(kLeft + column * tier, y + from * height, column - 8, part * height, tier,
                   fmt::format("layer {}: {} in {}", layer, what, tiers[tier]));
      };
      const auto [attention, ffn] = places[layer];
      if (attention == ffn) {
        weights(attention, 0, 1, "weights");
      } else {
        weights(attention, 0, 0.5, "attention");
        weights(ffn, 0.5, 0.5, "FFN");
      }
      const double shares[] = {kv.kv_hbm / group.n_held, kv.kv_dram / group.n_held,
                               1 - (kv.kv_hbm + kv.kv_dram) / group.n_held};
      const char* homes[] = {"HBM", "DRAM", "disk alone"};
      double x = kv_left;
      for (int i = 0; i < 3; ++i) {
        if (shares[i] < 1e-6) continue;
        const double width = shares[i] * (kWidth - kv_left);
        out += box(
            x, y, width, height, i,
            fmt::format("layer {}: {:.0f} % of K and V in {}", layer, 100 * shares[i], homes[i]));
        x += width;
      }
    }
  }
  return svg(24 + row * static_cast<double>(places.size()), "where each layer lives", out);
}

/// A lane for each part, over one token from the end of the one before it.
std::string timeline(const PlanAnswer& answer) {
  std::vector<planner::StepEvent> events;
  const double ms = planner::token_time(answer.problem, answer.plan.layers, &events).ms;
  double from = 0;
  for (const planner::StepEvent& event : events) from = std::min(from, event.begin_ms);
  from = std::max(from, -ms);  // what was read ahead, at most during the token before
  const double per_ms = (kWidth - kLeft) / (ms - from);
  std::string out;
  double y = 0;
  size_t n_drawn = 0;
  for (size_t part = 0; part < planner::kPlanParts; ++part) {
    const auto of = static_cast<PlanPart>(part);
    if (std::ranges::count(events, of, &planner::StepEvent::part) == 0) continue;
    out += words(0, y + 14, planner::plan_part_name(of));
    for (const planner::StepEvent& event : events) {
      if (event.part != of || event.end_ms < from || ++n_drawn > kEventsMax) continue;
      const double begin = std::max(event.begin_ms, from);
      out += box(kLeft + (begin - from) * per_ms, y, (event.end_ms - begin) * per_ms, kBar,
                 static_cast<int>(event.layer % 2),
                 fmt::format("{}, layer {}: {} from {}", planner::plan_part_name(of), event.layer,
                             time_text(event.end_ms - event.begin_ms), time_text(event.begin_ms)));
    }
    y += kLane;
  }
  const double zero = kLeft - from * per_ms;
  out +=
      fmt::format(R"(<path class="axis" d="M{0:.1f} 0V{1:.1f}M{2} 0V{1:.1f}"/>)", zero, y, kWidth);
  out += words(zero, y + 14, from < 0 ? "the token before ends" : "0") +
         words(kWidth, y + 14, time_text(ms), "end");
  return svg(y + 20, "one token, part by part", out);
}

std::string sentences(const PlanSubject& subject, const PlanAnswer& answer) {
  std::string out = "<h2>What more would bring</h2>\n<ul>\n";
  for (const planner::PlanDual& dual : answer.plan.duals) {
    const DualWords said = dual_words(dual, answer);
    out +=
        fmt::format("<li>{} brings {}.</li>\n", html_escaped(said.what), html_escaped(said.brings));
  }
  out += "</ul>\n<h2>Notes</h2>\n<ul>\n";
  out += fmt::format("<li>{}.</li>\n",
                     html_escaped(recompute_words(subject.model.spec.shape, answer.problem).text));
  for (const std::string& note : subject.notes)
    out += fmt::format("<li>{}.</li>\n", html_escaped(note));
  return out + "</ul>\n";
}

}  // namespace

std::string plan_page(const PlanSubject& subject, const PlanAnswer& answer,
                      const std::string& version) {
  const planner::PlacementPlan& plan = answer.plan;
  const std::string name = one_line(model_name(subject));
  std::string body = fmt::format(
      "<p>{} tokens of context, {} of them answered; attention {}; K in {}, V in {}; device {}. "
      "{} ({})</p>\n<p>First token after <b>{}</b>, {}; then <b>{}</b> per token ({:.2f} "
      "tokens/s), {}.</p>\n",
      engine::grouped_number(subject.request.n_ctx), engine::grouped_number(subject.request.n_out),
      html_escaped(subject.attention), kv_codec_name(answer.problem.k_codec),
      kv_codec_name(answer.problem.v_codec), html_escaped(subject.device),
      html_escaped(subject.rates_text), html_escaped(version), time_text(plan.prompt.ms),
      limit_text(plan.prompt), time_text(plan.token.ms), answer.tokens_per_s(),
      limit_text(plan.token));
  body += "<h2>Tiers</h2>\n" + tier_bars(answer) + "<h2>Layers</h2>\n" + layer_map(answer) +
          "<h2>One token</h2>\n<p>Each box is a layer's work; colours alternate.</p>\n" +
          timeline(answer) + sentences(subject, answer);
  return html_page("strata plan: " + name, name, body);
}

}  // namespace strata::cli
