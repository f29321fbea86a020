#include "tests/serve/browser.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <system_error>

namespace strata::serve::testing {
namespace {

using nlohmann::json;

constexpr int kPatienceMs = 60000;
// Where Chromium reads commands and writes what comes of them: here one socket is both, since a
// write to it raises no signal where the other end is gone.
constexpr int kReads = 3, kWrites = 4;

struct Key {
  int code;
  const char* text;  // that it types
};

const std::map<std::string, Key> kKeys = {
    {"Enter", {13, "\r"}}, {"Escape", {27, ""}}, {"Tab", {9, ""}}};

}  // namespace

bool Browser::is_installed() {
  return std::system("command -v chromium > /dev/null") == 0;  // NOLINT(concurrency-mt-unsafe)
}

Browser::Browser(const std::string& folder) {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    ADD_FAILURE() << "no socket for chromium: " << std::generic_category().message(errno);
    return;
  }
  const std::string home = "HOME=" + folder, profile = "--user-data-dir=" + folder + "/profile";
  const std::string log = folder + "/chromium.log";
  process_ = ::fork();
  if (process_ == 0) {
    ::setpgid(0, 0);
    const int own = ::fcntl(ends[1], F_DUPFD_CLOEXEC, 10);  // it may be one of the two
    ::dup2(own, kReads);
    ::dup2(own, kWrites);
    const int errors = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(errors, STDOUT_FILENO);
    ::dup2(errors, STDERR_FILENO);
    ::execlp("env", "env", home.c_str(), "chromium", "--headless", "--no-sandbox", "--disable-gpu",
             "--no-first-run", "--disable-breakpad", "--disable-dev-shm-usage", profile.c_str(),
             "--remote-debugging-pipe", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  const int fault = errno;
  ::close(ends[1]);  // where there is no process, what is read now ends at once
  socket_ = ends[0];
  if (process_ < 0) {
    ADD_FAILURE() << "no process for chromium: " << std::generic_category().message(fault);
    return;
  }
  const json target = send("Target.createTarget", {{"url", "about:blank"}}, "");
  if (!target.contains("targetId")) return;
  session_ =
      send("Target.attachToTarget", {{"targetId", target["targetId"]}, {"flatten", true}}, "")
          .value("sessionId", "");
  for (const char* domain : {"Page.enable", "Runtime.enable", "Log.enable", "DOM.enable"})
    call(domain);
}

Browser::~Browser() {
  write(R"({"id": 0, "method": "Browser.close"})");
  json unused;
  while (read_message(unused)) continue;  // to its end
  if (process_ > 0) {
    ::kill(-process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  if (socket_ >= 0) ::close(socket_);
}

void Browser::write(const std::string& message) {
  for (size_t at = 0; at <= message.size();) {  // with the zero behind it
    const ssize_t n = ::send(socket_, message.c_str() + at, message.size() + 1 - at, MSG_NOSIGNAL);
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

bool Browser::read_message(json& out) {
  if (socket_ < 0) return false;
  size_t end = 0;
  while ((end = unread_.find('\0')) == std::string::npos) {
    pollfd source = {socket_, POLLIN, 0};
    if (::poll(&source, 1, kPatienceMs) <= 0) return false;
    char bytes[65536];
    const ssize_t n = ::read(socket_, bytes, sizeof(bytes));
    if (n <= 0) return false;
    unread_.append(bytes, static_cast<size_t>(n));
  }
  out = json::parse(unread_.substr(0, end), nullptr, false);
  unread_.erase(0, end + 1);
  return out.is_object();
}

void Browser::note(const json& event) {
  const std::string method = event.value("method", "");
  if (method == "Runtime.consoleAPICalled" || method == "Runtime.exceptionThrown" ||
      method == "Log.entryAdded")
    complaints_.push_back(event["params"].dump());
}

json Browser::send(const std::string& method, const json& parameters, const std::string& session) {
  json command = {{"id", ++n_sent_}, {"method", method}, {"params", parameters}};
  if (!session.empty()) command["sessionId"] = session;
  write(command.dump());
  json message;
  while (read_message(message)) {
    if (message.value("id", -1) != n_sent_) {
      note(message);
      continue;
    }
    if (message.contains("error")) ADD_FAILURE() << method << ": " << message["error"];
    return message.value("result", json::object());
  }
  ADD_FAILURE() << "chromium says nothing to " << method;
  return json::object();
}

json Browser::call(const std::string& method, const json& parameters) {
  return send(method, parameters, session_);
}

void Browser::open(const std::string& url) {
  call("Page.navigate", {{"url", url}});
  expect(fmt::format("location.href === '{}' && document.readyState === 'complete'", url));
}

json Browser::value(const std::string& expression) {
  const json result =
      call("Runtime.evaluate",
           {{"expression", expression}, {"awaitPromise", true}, {"returnByValue", true}});
  if (result.contains("exceptionDetails")) ADD_FAILURE() << expression << ": " << result;
  return result.value("result", json::object()).value("value", json());
}

void Browser::expect(const std::string& expression) {
  const std::string looks = fmt::format(
      "new Promise(say => {{ const end = Date.now() + 30000; const look = () => {{"
      "  if ({}) say(true); else if (Date.now() > end) say(false); else setTimeout(look, 10); }};"
      "look(); }})",
      expression);
  // Where a page gives way to another, the promise goes with it.
  EXPECT_EQ(value(looks), true) << expression << "\n"
                                << value("document.body.innerText").get<std::string>();
}

void Browser::type(std::string_view text) { call("Input.insertText", {{"text", text}}); }

void Browser::press(const std::string& key, bool with_shift) {
  const Key& of = kKeys.at(key);
  json event = {{"key", key},
                {"code", key},
                {"windowsVirtualKeyCode", of.code},
                {"modifiers", with_shift ? 8 : 0}};
  event["type"] = "keyDown";
  if (of.text[0] != '\0') event["text"] = of.text;
  call("Input.dispatchKeyEvent", event);
  event.erase("text");
  event["type"] = "keyUp";
  call("Input.dispatchKeyEvent", event);
}

void Browser::click(const std::string& id) {
  const json at = value(
      fmt::format("(() => {{ const box = document.getElementById('{}').getBoundingClientRect();"
                  "return {{x: box.x + box.width / 2, y: box.y + box.height / 2}}; }})()",
                  id));
  json event = {{"x", at["x"]}, {"y", at["y"]}, {"button", "left"}, {"clickCount", 1}};
  for (const char* type : {"mousePressed", "mouseReleased"}) {
    event["type"] = type;
    call("Input.dispatchMouseEvent", event);
  }
}

void Browser::choose_file(const std::string& id, const std::string& path) {
  const json root = call("DOM.getDocument")["root"];
  const json node = call("DOM.querySelector", {{"nodeId", root["nodeId"]}, {"selector", "#" + id}});
  call("DOM.setFileInputFiles", {{"nodeId", node["nodeId"]}, {"files", {path}}});
}

}  // namespace strata::serve::testing
