// tests/serve/browser.h - a headless Chromium with one page, told what to do as a user would do it.
// Why not a driver's library: a socket and JSON between zero bytes are all that it takes.
// Source: the Chrome DevTools Protocol, and Chromium's --remote-debugging-pipe.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace strata::serve::testing {

/// Every wait ends after a minute and fails the test, as does a browser that ends.
/// Threads: one.
class Browser {
 public:
  static bool is_installed();

  /// Starts it; its profile and its home are in `folder`, which outlives it.
  explicit Browser(const std::string& folder);
  ~Browser();
  Browser(const Browser&) = delete;
  Browser& operator=(const Browser&) = delete;

  void open(const std::string& url);
  /// A command of the protocol to the page; its result.
  nlohmann::json call(const std::string& method,
                      const nlohmann::json& parameters = nlohmann::json::object());
  /// The value of an expression of JavaScript in the page.
  nlohmann::json value(const std::string& expression);
  /// Waits until an expression is true in the page; the test fails where it stays false.
  void expect(const std::string& expression);

  /// As the keyboard does: text where the focus is, or one key ("Enter", "Escape", "Tab").
  void type(std::string_view text);
  void press(const std::string& key, bool with_shift = false);
  void click(const std::string& id);
  /// Chooses a file where the page asks for one.
  void choose_file(const std::string& id, const std::string& path);

  /// What the console has been told, and exceptions that nobody caught.
  const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  nlohmann::json send(const std::string& method, const nlohmann::json& parameters,
                      const std::string& session);
  void write(const std::string& message);
  bool read_message(nlohmann::json& out);
  void note(const nlohmann::json& event);

  pid_t process_ = -1;
  int socket_ = -1;
  int n_sent_ = 0;
  std::string unread_, session_;
  std::vector<std::string> complaints_;
};

}  // namespace strata::serve::testing
