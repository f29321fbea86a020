// The pictures of a plan: bars of characters, and the page of --html.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/tools/plan_fixture.h"
#include "tools/cli/html_page.h"
#include "tools/cli/plan_bar.h"

namespace strata::cli {
namespace {

using testing::run_strata;

planner::TierUse use(double budget, double weights, double kv, double index, double buffers) {
  return {.budget_gb = budget,
          .weights_gb = weights,
          .kv_gb = kv,
          .index_gb = index,
          .buffers_gb = buffers};
}

TEST(PlanBar, HasEachPartsShareOfTheWidth) {
  const PlanLook narrow{.n_columns = 40};  // twenty of them are not the bar
  EXPECT_EQ(tier_bar(use(10, 5, 2, 1, 1), narrow), "WWWWWWWWWWKKKKiibb..");
  EXPECT_EQ(tier_bar(use(10, 0, 0, 0, 0), narrow), std::string(20, '.'));
  EXPECT_EQ(tier_bar(use(0, 0, 0, 0, 0), narrow), std::string(20, '.'));
  EXPECT_EQ(tier_bar(use(10, 20, 2, 1, 1), narrow), std::string(20, 'W'));  // never beyond it
  EXPECT_EQ(tier_bar(use(10, 5, 2, 1, 1), {}).size(), 60u);
  // Parts too thin for a character of their own do not move the others.
  EXPECT_EQ(tier_bar(use(1000, 1, 1, 1, 997), narrow), std::string(20, 'b'));
}

TEST(PlanBar, UsesBlocksOfOneColumnEach) {
  const PlanLook look{.n_columns = 40, .has_blocks = true};
  EXPECT_EQ(tier_bar(use(10, 5, 2, 1, 1), look), "██████████▓▓▓▓▒▒░░··");
  EXPECT_NE(bar_legend(look).find("▓ keys and values"), std::string::npos);
  EXPECT_NE(bar_legend({}).find("K keys and values"), std::string::npos);
}

TEST(PlanBar, KeepsToTheWindowWithinReason) {
  EXPECT_EQ(tier_bar(use(1, 1, 0, 0, 0), {.n_columns = 1}).size(), 10u);
  EXPECT_EQ(tier_bar(use(1, 1, 0, 0, 0), {.n_columns = 100000}).size(), 140u);
}

TEST(HtmlPage, EscapesWhatStandsForItself) {
  EXPECT_EQ(html_escaped("<b title='x' & \"y\">"),
            "&lt;b title=&#39;x&#39; &amp; &quot;y&quot;&gt;");
  const std::string page = html_page("a<b", "c>d", "<p>e</p>");
  EXPECT_NE(page.find("<title>a&lt;b</title>"), std::string::npos);
  EXPECT_NE(page.find("<h1>c&gt;d</h1>\n<p>e</p>"), std::string::npos);
}

class PlanPage : public testing::PlanTest {
 protected:
  std::string page(std::vector<std::string> more) {
    const std::string file = folder_.path("plan.html");
    more.insert(more.end(), {"--html", file});
    text(more);
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static size_t count(const std::string& text, const std::string& of) {
    size_t n = 0;
    for (size_t at = text.find(of); at != std::string::npos; at = text.find(of, at + 1)) ++n;
    return n;
  }
  /// Every element that is opened is closed in its order.
  static void expect_balanced(const std::string& html) {
    std::vector<std::string> open;
    for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
      const size_t end = html.find('>', at);
      ASSERT_NE(end, std::string::npos);
      const bool closes = html[at + 1] == '/';
      const size_t from = at + (closes ? 2 : 1);
      const std::string name = html.substr(from, html.find_first_of(" />", from) - from);
      const bool is_void = name == "meta" || name == "!doctype" || html[end - 1] == '/';
      if (is_void) continue;
      if (!closes) {
        open.push_back(name);
        continue;
      }
      ASSERT_FALSE(open.empty()) << name;
      EXPECT_EQ(open.back(), name);
      open.pop_back();
    }
    EXPECT_TRUE(open.empty());
  }
};

TEST_F(PlanPage, ShowsLayersTiersATokenAndWhatMoreBrings) {
  const std::string html = page(
      {"--device", "virtual:laptop8", "-c", "64k", "--pin", "blk\\.[0-3]\\.=dram", "-ngl", "99"});
  expect_balanced(html);
  EXPECT_EQ(count(html, "<svg "), 3u);
  EXPECT_EQ(count(html, ": weights in DRAM</title>"), 4u);
  EXPECT_EQ(count(html, ": weights in HBM</title>"), 4u);
  for (const char* part :
       {"link in, layer 0: ", "GPU, layer 7: ", "HBM: K and V ", "First token",
        "+1 GiB of HBM brings", "recomputing K and V is off", "prefers-color-scheme: dark"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  // Nothing beside it, and no program.
  for (const char* foreign : {"<script", "http:", "https:", "src=", "url(", "onload"})
    EXPECT_EQ(html.find(foreign), std::string::npos) << foreign;
}

TEST_F(PlanPage, ShowsPiecesThatLiveApart) {
  const std::string html = page({"--device", "none", "-c", "64k", "--pin",
                                 "blk\\.[0-3]\\.ffn_=nvme", "--pin", "blk\\.[0-3]\\.attn_=dram"});
  expect_balanced(html);
  EXPECT_EQ(count(html, ": attention in DRAM</title>"), 4u);
  EXPECT_EQ(count(html, ": FFN in model file</title>"), 4u);
  EXPECT_EQ(count(html, ": weights in DRAM</title>"), 4u);
}

TEST_F(PlanPage, ShowsAHostileNameAsText) {
  small_.set("general.name", std::string("<script>alert(\"x\")</script> & '</svg>"));
  path_ = model(small_, "hostile.gguf");
  const std::string html = page({"--device", "none"});
  expect_balanced(html);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_NE(html.find("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; "),
            std::string::npos);
}

TEST_F(PlanPage, ThatCannotBeWrittenIsRefused) {
  expect_refused(arguments({"--device", "none", "--html", folder_.path("no/such/folder.html")}),
                 {1, "io", {"the page"}, "folder.html", ""});
}

}  // namespace
}  // namespace strata::cli
