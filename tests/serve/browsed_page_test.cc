// The page as a person has it, in a browser: typing, stopping, files, keys alone, dark, on a phone.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <set>
#include <string>

#include "tests/engine/test_folder.h"
#include "tests/serve/browser.h"
#include "tests/serve/served_page.h"

namespace strata::serve {
namespace {

using nlohmann::json;

class BrowsedPage : public testing::ServedPage {
 protected:
  void SetUp() override {
    if (!testing::Browser::is_installed())
      GTEST_SKIP() << "no chromium here: tools/install_packages.sh test";
    ServedPage::SetUp();
    browser_.emplace(folder_.path());
    browser_->open(url());
    browser_->expect("at('model').textContent.startsWith('scripted | context')");
    browser_->expect("document.activeElement?.id === 'prompt'");  // which has the focus by itself
  }
  /// A console that was told nothing but what is expected is part of every test.
  void TearDown() override {
    if (!browser_) return;
    for (const std::string& complaint : browser_->complaints())
      if (expected_.empty() || complaint.find(expected_) == std::string::npos)
        ADD_FAILURE() << complaint;
  }
  void ask(const std::string& text) {
    browser_->type(text);
    browser_->press("Enter");
  }
  /// `n` of the messages that are shown holds `text`, and nothing else.
  void expect_message(size_t n, const std::string& text) {
    browser_->expect(fmt::format(
        "(document.querySelectorAll('#talk article pre')[{}] || {{}}).textContent === {}", n,
        json(text).dump()));
  }
  /// Those that come to be ready to be pressed, and no others.
  void expect_buttons(const std::string& ids) {
    browser_->expect(
        "[...document.querySelectorAll('button')].filter(button => !button.disabled)"
        ".map(button => button.id).join(' ') === " +
        json(ids).dump());
  }

  engine::testing::TestFolder folder_;
  std::optional<testing::Browser> browser_;
  std::string expected_;  // that the console may be told
};

TEST_F(BrowsedPage, ShowsWhatIsAtWork) {
  browser_->expect(
      "document.body.innerText.includes('2 layers: 12 blocks in DRAM, 6 on NVMe alone')");
  browser_->expect("document.body.innerText.includes('90 tokens, answering')");
  for (const char* count : {"attentionquest 2048", "hit rate, DRAM75.0 %", "hit rate, HBM12.5 %",
                            "K and V of a token64 B"})
    browser_->expect(fmt::format("at('counts').textContent.includes('{}')", count));
  browser_->expect(
      "document.querySelectorAll('#reasons li')[1].textContent === "
      "'+1 GiB of <DRAM> would bring nothing.'");
}

TEST_F(BrowsedPage, ShowsWhatARowReadsBetweenTwoLooks) {
  const json read = browser_->value(
      "(() => { const facts = {}; const look = (written_bytes, read_bytes) => show_reads("
      "{kv_bytes_per_token: 64, tiers: {dram: {written_bytes, read_bytes}}}, facts);"
      "look(0, 1000); look(640, 1000 + 20480); return facts['read a row, DRAM']; })()");
  EXPECT_EQ(read, "2.0 KiB");  // of ten rows
}

TEST_F(BrowsedPage, SendsWithEnterAndShowsTheAnswerAsItComes) {
  service_.script = {testing::prompt_event(3, 7), testing::text_event("Hello"),
                     testing::text_event(" <b>there</b>"), testing::end_event()};
  service_.n_held = 1;
  browser_->type("one");
  browser_->press("Enter", true);
  ask("two");
  expect_message(0, "one\ntwo");
  browser_->expect("at('talk').innerText.includes('reading 3 of 7 tokens')");
  expect_buttons("stop");
  service_.release();
  expect_message(1, "Hello <b>there</b>");
  browser_->expect("at('talk').innerText.includes('7 tokens read (3 cached), 2 answered')");
  EXPECT_EQ(browser_->value("document.querySelectorAll('#talk b').length"), 0);
  expect_buttons("send again anew");
  ask("and now");
  browser_->expect(
      "document.querySelectorAll('#talk article').length === 4 && at('stop').disabled");
  const auto orders = service_.orders();
  ASSERT_EQ(orders.size(), 2u);
  ASSERT_EQ(orders[1].messages.size(), 3u);
  EXPECT_EQ(orders[1].messages[0].content, "one\ntwo");
  EXPECT_EQ(orders[1].messages[1].content, "Hello <b>there</b>");
  EXPECT_EQ(orders[1].messages[2].content, "and now");
}

TEST_F(BrowsedPage, StopsAnswersAsksAgainAndBeginsAnew) {
  service_.n_held = 2;
  ask("one");
  expect_message(1, "Hello");
  browser_->press("Escape");
  browser_->expect("at('talk').innerText.includes('stopped') && at('stop').disabled");
  EXPECT_TRUE(service_.wait_cancelled(1));
  browser_->click("again");
  ASSERT_TRUE(service_.wait_orders(2));
  expect_message(1, "Hello");
  browser_->click("stop");
  EXPECT_TRUE(service_.wait_cancelled(2));
  browser_->expect("!at('again').disabled");
  service_.release();
  browser_->click("again");
  expect_message(1, "Hello there");
  browser_->expect("!at('anew').disabled");
  for (const AnswerOrder& order : service_.orders()) {
    ASSERT_EQ(order.messages.size(), 1u);
    EXPECT_EQ(order.messages[0].content, "one");
  }
  browser_->click("anew");
  browser_->expect("at('talk').childElementCount === 0 && at('again').disabled");
}

TEST_F(BrowsedPage, SaysWhatTheServerRefuses) {
  service_.script = {testing::error_event(Error(ErrorCode::kIo, "the disk is gone"))};
  ask("one");
  browser_->expect(
      "at('problem').textContent.includes('the disk is gone') && !at('send').disabled");
  service_.script = {testing::text_event("It is back"), testing::end_event()};
  ask("two");
  expect_message(1, "It is back");
  EXPECT_EQ(browser_->value("at('problem').textContent"), "");
  EXPECT_EQ(service_.orders().back().messages.size(), 1u);  // the turn without an answer is gone
}

TEST_F(BrowsedPage, PutsATextFileInFrontAndCountsItsTokens) {
  browser_->choose_file("file", folder_.write("notes.txt", "12345"));
  browser_->expect("at('size').textContent === '6 tokens'");  // one for each byte, and one behind
  browser_->click("prompt");
  ask("what");
  expect_message(0, "12345\n\nwhat");
  browser_->expect("at('size').textContent === '' && at('stop').disabled");
  expected_ = "status of 400";
  browser_->choose_file("file", folder_.write("long.txt", std::string((4 << 20) + 1, 'a')));
  browser_->expect(
      "at('size').textContent.startsWith('tokens are not counted: content has 4194305 bytes')");
}

TEST_F(BrowsedPage, CanBeUsedWithoutAMouse) {
  std::set<std::string> reached;
  for (int i = 0; i < 20; ++i) {
    reached.insert(browser_->value("document.activeElement.id || document.activeElement.tagName"));
    EXPECT_EQ(browser_->value("document.activeElement === document.body || "
                              "getComputedStyle(document.activeElement).outlineStyle !== 'none' || "
                              "document.activeElement.id === 'file'"),  // its label has the outline
              true)
        << browser_->value("document.activeElement.outerHTML");
    browser_->press("Tab");
  }
  for (const char* id : {"prompt", "send", "anew", "file", "SUMMARY", "key", "talk"})
    EXPECT_TRUE(reached.contains(id)) << id;
  EXPECT_EQ(browser_->value("[...document.querySelectorAll('button, textarea, input')].filter(of =>"
                            "!(of.innerText || of.labels.length || of.ariaLabel)).length"),
            0);
}

/// Of a colour as a browser writes it, 0 to 255: red, green and blue by the eye's weights.
constexpr const char* kBrightness =
    "(colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(Number);"
    "return .2126 * r + .7152 * g + .0722 * b; })";

TEST_F(BrowsedPage, IsDarkWhereTheSystemIs) {
  const auto brightness = [&](const char* what) {
    return browser_->value(fmt::format("{}(getComputedStyle(document.body).{})", kBrightness, what))
        .get<double>();
  };
  for (const char* scheme : {"light", "dark"}) {
    browser_->call("Emulation.setEmulatedMedia",
                   {{"features", {{{"name", "prefers-color-scheme"}, {"value", scheme}}}}});
    const bool is_dark = std::string(scheme) == "dark";
    EXPECT_EQ(brightness("backgroundColor") < 64, is_dark) << scheme;
    EXPECT_EQ(brightness("color") > 192, is_dark) << scheme;
  }
}

TEST_F(BrowsedPage, FitsAPhone) {
  browser_->call("Emulation.setDeviceMetricsOverride",
                 {{"width", 360}, {"height", 640}, {"deviceScaleFactor", 2}, {"mobile", true}});
  service_.script = {testing::text_event(std::string(300, 'w')), testing::end_event()};
  ask(std::string(300, 'm'));
  expect_message(1, std::string(300, 'w'));
  browser_->expect("at('stop').disabled");
  EXPECT_EQ(browser_->value("innerWidth"), 360);
  EXPECT_LE(browser_->value("document.documentElement.scrollWidth").get<int>(), 360);
  EXPECT_EQ(browser_->value("['talk', 'prompt', 'send', 'stop', 'again', 'anew'].filter(id => {"
                            "const box = at(id).getBoundingClientRect();"
                            "return box.left < 0 || box.right > 360 || box.top < 0 || "
                            "box.bottom > 640 || box.width === 0 || box.height === 0; })"),
            json::array());
}

}  // namespace
}  // namespace strata::serve
