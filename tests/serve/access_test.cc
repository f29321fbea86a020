#include "tools/serve/access.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace strata::serve {
namespace {

HttpRequest request_of(std::vector<std::pair<std::string, std::string>> headers,
                       const std::string& method = "POST") {
  HttpRequest request;
  request.method = method;
  request.headers = std::move(headers);
  return request;
}

/// The status of the refusal, or 0.
int verdict(const Access& access, const HttpRequest& request, bool needs_key = true) {
  const auto refusal = access.refuse(request, needs_key);
  return refusal ? refusal->status : 0;
}

TEST(Secret, OnlyTheWholeSecretIsTheSame) {
  EXPECT_TRUE(is_same_secret("abc", "abc"));
  for (const char* given : {"", "a", "ab", "abd", "abcabc", "abcd", "ABC"})
    EXPECT_FALSE(is_same_secret(given, "abc")) << given;
  EXPECT_FALSE(is_same_secret("", ""));
}

TEST(Secret, KeysNeedNoQuoting) {
  EXPECT_TRUE(is_key_text("sk-Az09._~+/="));
  for (const char* text : {"", "a b", "a%41", "a\"", "a\n", "\xc3\xa4"})
    EXPECT_FALSE(is_key_text(text)) << text;
}

TEST(Access, KeyIsTakenFromEitherHeader) {
  AccessOptions options;
  options.keys = {"first", "second"};
  const Access access(options);
  EXPECT_EQ(verdict(access, request_of({})), 401);
  EXPECT_EQ(verdict(access, request_of({}), false), 0);
  EXPECT_EQ(verdict(access, request_of({{"authorization", "Bearer second"}})), 0);
  EXPECT_EQ(verdict(access, request_of({{"authorization", "bearer first"}})), 0);
  EXPECT_EQ(verdict(access, request_of({{"x-api-key", "first"}})), 0);
  for (const auto& [bearer, key] :
       {std::pair("Bearer first", "no"), std::pair("Bearer no", "first")})
    EXPECT_EQ(verdict(access, request_of({{"authorization", bearer}, {"x-api-key", key}})), 0);
  EXPECT_EQ(verdict(access, request_of({{"authorization", "Bearer no"}, {"x-api-key", "no"}})),
            401);
  for (const char* given : {"Bearer third", "Bearer ", "Bearer", "first", "Basic first", ""})
    EXPECT_EQ(verdict(access, request_of({{"authorization", given}})), 401) << given;
  EXPECT_EQ(verdict(access, request_of({{"x-api-key", ""}})), 401);
  EXPECT_EQ(verdict(Access(AccessOptions{}), request_of({})), 0);
}

TEST(Access, HostIsANameOfThisMachine) {
  AccessOptions options;
  options.host = "MyName";
  const Access access(options);
  for (const char* host : {"localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]",
                           "[::1]:8080", "myname:1"})
    EXPECT_EQ(verdict(access, request_of({{"host", host}})), 0) << host;
  for (const char* host :
       {"evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
        "0.0.0.0", "localhost.", "", "[", "[::2]", "2130706433", "128.0.0.1"})
    EXPECT_EQ(verdict(access, request_of({{"host", host}})), 403) << host;
  options.checks_host = false;
  EXPECT_EQ(verdict(Access(options), request_of({{"host", "strata.example"}})), 0);
}

TEST(Access, PagesOfOtherSitesAreRefused) {
  AccessOptions options;
  const Access access(options);
  const auto from = [](const std::string& origin) {
    return request_of({{"host", "localhost:8080"}, {"origin", origin}});
  };
  EXPECT_EQ(verdict(access, from("http://localhost:8080")), 0);
  for (const char* origin : {"null", "", "http://localhost", "http://localhost:80801",
                             "http://127.0.0.1:8080", "https://evil.example", "localhost:8080"})
    EXPECT_EQ(verdict(access, from(origin)), 403) << origin;
  options.cors_origins = {"https://app.example"};
  EXPECT_EQ(verdict(Access(options), from("https://app.example")), 0);
  EXPECT_EQ(verdict(Access(options), from("https://app.example.evil")), 403);
  options.cors_origins = {"*"};
  EXPECT_EQ(verdict(Access(options), from("null")), 0);
}

std::string headers_text(const Access& access, const HttpRequest& request) {
  HttpReply reply;
  access.add_headers(request, reply);
  std::string text;
  for (const auto& [name, value] : reply.headers) text += fmt::format("{}: {}\n", name, value);
  return text;
}

TEST(Access, BrowsersAreToldOfAllowedPagesOnly) {
  AccessOptions options;
  const HttpRequest request = request_of({{"origin", "https://app.example"}});
  EXPECT_EQ(headers_text(Access(options), request), "X-Content-Type-Options: nosniff\n");
  options.cors_origins = {"https://app.example"};
  EXPECT_NE(headers_text(Access(options), request)
                .find("Access-Control-Allow-Origin: https://app.example\n"),
            std::string::npos);
  EXPECT_EQ(headers_text(Access(options), request_of({{"origin", "https://evil.example"}})),
            "X-Content-Type-Options: nosniff\nVary: Origin\n");
  EXPECT_EQ(headers_text(Access(options), request).find("Credentials"), std::string::npos);
  EXPECT_NE(
      headers_text(Access(options), request_of({{"origin", "https://app.example"}}, "OPTIONS"))
          .find("Access-Control-Allow-Headers: Authorization"),
      std::string::npos);
}

}  // namespace
}  // namespace strata::serve
