#include "tools/soak/hostile_case.h"

#include <fmt/format.h>

#include <array>
#include <random>

namespace strata::soak {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  /// 0 to n - 1.
  size_t below(size_t n) { return engine_() % n; }
  template <class Items>
  std::string_view one_of(const Items& items) {
    return items[below(std::size(items))];
  }
  std::string bytes(size_t n) {
    std::string out(n, '\0');
    for (char& c : out) c = static_cast<char>(engine_());
    return out;
  }

 private:
  std::mt19937_64 engine_;
};

constexpr std::string_view kPaths[] = {"/v1/completions",      "/v1/chat/completions",
                                       "/v1/messages",         "/tokenize",
                                       "/detokenize",          "/apply-template",
                                       "/slots/0?action=save", "/slots/1?action=restore",
                                       "/slots/2?action=erase"};
constexpr std::string_view kBodies[] = {
    R"({"prompt":"ab","max_tokens":2,"temperature":0,"stop":["z"],"seed":1})",
    R"({"prompt":[5,6],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}})",
    R"({"messages":[{"role":"user","content":"hi"}],"max_tokens":2,"logprobs":true})",
    R"({"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"max_tokens":2})",
    R"({"content":"some text","with_pieces":true})",
    R"({"tokens":[3,4,5]})",
    R"({"filename":"kept.bin"})",
    R"({"prompt":"a","max_tokens":2,"response_format":{"type":"json_object"},"top_k":3})",
    R"({"messages":[{"role":"user","content":"x"}],"max_tokens":2,"tool_choice":"none"})",
};

std::string head(std::string_view method, std::string_view path, std::string_view lines) {
  return fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\n{}", method, path, lines);
}

std::string post(std::string_view path, std::string_view body, std::string_view lines = "") {
  return head("POST", path, lines) +
         fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.size()) +
         std::string(body);
}

std::string good_request(Draw& draw) { return post(draw.one_of(kPaths), draw.one_of(kBodies)); }

std::string with_flipped_bits(std::string text, Draw& draw) {
  for (size_t n = 1 + draw.below(8); n > 0 && !text.empty(); --n)
    text[draw.below(text.size())] ^= static_cast<char>(1u << draw.below(8));
  return text;
}

std::string flipped_request(Draw& draw) { return with_flipped_bits(good_request(draw), draw); }

std::string flipped_body(Draw& draw) {
  return post(draw.one_of(kPaths), with_flipped_bits(std::string(draw.one_of(kBodies)), draw));
}

std::string cut_request(Draw& draw) {
  const std::string whole = good_request(draw);
  return whole.substr(0, draw.below(whole.size()));
}

std::string noise(Draw& draw) { return draw.bytes(1 + draw.below(4096)); }

std::string deep_json(Draw& draw) {
  const size_t depth = size_t{1} << (6 + draw.below(13));
  std::string body = R"({"prompt":)";
  const bool is_object = draw.below(2) == 0;
  for (size_t i = 0; i < depth; ++i) body += is_object ? R"({"a":)" : "[";
  if (draw.below(2) == 0)
    for (size_t i = 0; i < depth; ++i) body += is_object ? "}" : "]";
  return post(draw.one_of(kPaths), body + "}");
}

std::string wide_json(Draw& draw) {
  std::string body = R"({"prompt":[)";
  for (size_t n = size_t{1} << (8 + draw.below(10)); n > 0; --n) body += "{},";
  return post(draw.one_of(kPaths), body + "1]}");
}

std::string broken_utf8(Draw& draw) {
  constexpr std::string_view kTexts[] = {"\xff\xfe",         "\xc0\x80", "\xed\xa0\x80",
                                         "\xf5\x80\x80\x80", "\xe2\x82", R"(\ud800)",
                                         R"(\u0000)"};
  return post(draw.one_of(kPaths),
              fmt::format(R"({{"prompt":"{0}","content":"{0}","messages":[{{"role":"{0}",)"
                          R"("content":"{0}"}}],"max_tokens":1,"stop":"{0}"}})",
                          draw.one_of(kTexts)));
}

std::string odd_values(Draw& draw) {
  constexpr std::string_view kFields[] = {
      "max_tokens", "temperature", "top_p",      "seed",     "n",      "stop",           "logprobs",
      "logit_bias", "stream",      "n_predict",  "messages", "tools",  "tool_choice",    "model",
      "top_k",      "prompt",      "ignore_eos", "tokens",   "system", "response_format"};
  constexpr std::string_view kValues[] = {"1e999",
                                          "-1e999",
                                          "99999999999999999999",
                                          "-9223372036854775808",
                                          "18446744073709551615",
                                          "0.1e-320",
                                          "-0",
                                          "null",
                                          "true",
                                          "[]",
                                          "{}",
                                          R"("")",
                                          R"({"a":[{"b":null}]})",
                                          "[[[[1]]]]",
                                          R"(["a",1,null])",
                                          "1e5",
                                          "-1",
                                          R"({"99999999":1e308})",
                                          "[1,2,",
                                          "NaN"};
  std::string body = R"({"max_tokens":1,"prompt":"a")";
  for (size_t n = 1 + draw.below(4); n > 0; --n)
    body += fmt::format(R"(,"{}":{})", draw.one_of(kFields), draw.one_of(kValues));
  return post(draw.one_of(kPaths), body + "}");
}

std::string doubled_headers(Draw& draw) {
  constexpr std::string_view kLines[] = {"Host: other\r\n",
                                         "Content-Length: 7\r\n",
                                         "Content-Length: 0\r\n",
                                         "Transfer-Encoding: x\r\n",
                                         "Transfer-Encoding: chunked\r\n",
                                         "Content-Type: text/html\r\n",
                                         "Connection: upgrade\r\n",
                                         "Expect: 100-continue\r\n",
                                         "Range: bytes=0-1,2-3\r\n",
                                         "Content-Encoding: br\r\n",
                                         "Origin: null\r\n",
                                         "Authorization: Bearer x\r\n",
                                         ": no name\r\n",
                                         "A B: c\r\n",
                                         "X: a\rb\r\n",
                                         "X: a\nb\r\n",
                                         " folded\r\n",
                                         "X\r\n"};
  std::string lines;
  for (size_t n = 1 + draw.below(3); n > 0; --n) lines += draw.one_of(kLines);
  return post(draw.one_of(kPaths), draw.one_of(kBodies), lines);
}

std::string large_head(Draw& draw) {
  std::string lines;
  const size_t n_bytes = size_t{1} << (10 + draw.below(10));
  if (draw.below(2) == 0) lines = "X: " + std::string(n_bytes, 'x') + "\r\n";
  while (lines.size() < n_bytes) lines += "Y: y\r\n";
  const std::string path = draw.below(4) == 0 ? "/" + std::string(n_bytes, 'p') : "/health";
  return head("GET", path, lines) + "\r\n";
}

std::string odd_lines(Draw& draw) {
  constexpr std::string_view kFirstLines[] = {"GET / HTTP/9.9\r\n",
                                              "GET /%00%ff%zz HTTP/1.1\r\n",
                                              "TRACE / HTTP/1.1\r\n",
                                              "GET  /  HTTP/1.1\r\n",
                                              "\r\n\r\n",
                                              "GET http://other/ HTTP/1.1\r\n",
                                              "GET / HTTP/1.1\n",
                                              "CONNECT x:1 HTTP/1.1\r\n",
                                              "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                              "OPTIONS * HTTP/1.1\r\n",
                                              "GET /../../etc HTTP/1.1\r\n",
                                              "get / HTTP/1.1\r\n",
                                              "GET /slots/99999999999999999999 HTTP/1.1\r\n",
                                              "GET /health HTTP/1.0\r\n"};
  return std::string(draw.one_of(kFirstLines)) + "Host: localhost\r\n\r\n";
}

std::string broken_chunks(Draw& draw) {
  constexpr std::string_view kChunks[] = {
      "zz\r\n{}\r\n0\r\n\r\n", "-1\r\n{}\r\n",         "ffffffffffffffff\r\n{}\r\n",
      "2\r\n{}0\r\n\r\n",      "2;a=b\r\n{}\r\n0\r\n", "2\r\n{}\r\n0\r\nX: y\r\n",
      "\r\n\r\n\r\n",          "2\n{}\n0\n\n",         "0\r\n\r\n",
      "40000000\r\n{}",        "2\r\n{}\r\n2\r\n",     "0x2\r\n{}\r\n0\r\n\r\n"};
  std::string text = head("POST", draw.one_of(kPaths),
                          "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (size_t n = draw.below(4); n > 0; --n) text += "1\r\n \r\n";
  return text + std::string(draw.one_of(kChunks));
}

std::string announced_gigabyte(Draw& draw) {
  constexpr std::string_view kLengths[] = {
      "1073741824", "67108865", "67108864", "99999999999999999999999", "-5", "1e9", "+3", "0x10"};
  return head("POST", draw.one_of(kPaths),
              fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                          draw.one_of(kLengths))) +
         std::string(draw.below(100000), '{');
}

std::string large_body(Draw& draw) {
  const std::string text(size_t{1} << (14 + draw.below(8)), draw.below(2) == 0 ? 'a' : ' ');
  return post(draw.one_of(kPaths), R"({"max_tokens":1,"prompt":")" + text + R"("})");
}

std::string pipelined_garbage(Draw& draw) {
  std::string text = good_request(draw);
  for (size_t n = draw.below(4); n > 0; --n) text += good_request(draw);
  return text + draw.bytes(draw.below(300));
}

std::string odd_schema(Draw& draw) {
  constexpr std::string_view kSchemas[] = {R"({"$ref":"#"})",
                                           R"({"type":"string","pattern":"(a*)*b"})",
                                           R"({"anyOf":[]})",
                                           R"({"type":"array","minItems":1e9})",
                                           R"({"enum":[]})",
                                           R"({"type":["object",7]})",
                                           R"({"allOf":[{"$ref":"#/a"}],"a":{"$ref":"#/allOf"}})",
                                           R"({"type":"object","required":["b"]})"};
  return post("/v1/chat/completions",
              fmt::format(R"({{"messages":[{{"role":"user","content":"a"}}],"max_tokens":3,)"
                          R"("response_format":{{"type":"json_schema","json_schema":{{"name":"n",)"
                          R"("schema":{}}}}}}})",
                          draw.one_of(kSchemas)));
}

/// An answer that would take long, of a client that goes.
std::string long_order(Draw& draw) {
  return post("/v1/completions", draw.below(2) == 0
                                     ? R"({"prompt":"a","max_tokens":100000000,"stream":true})"
                                     : R"({"prompt":"a","ignore_eos":true})");
}

constexpr uint64_t kTailBytes = uint64_t{1} << 16;

/// A body that is really sent, in chunks or with a length that ends before it does.
std::string streamed_body(Draw& draw) {
  constexpr std::string_view kSizes[] = {"Transfer-Encoding: chunked", "Content-Length: 67108864",
                                         "Content-Length: 1000000"};
  return head("POST", draw.one_of(kPaths),
              fmt::format("Content-Type: application/json\r\n{}\r\n\r\n", draw.one_of(kSizes)));
}

/// How often a body's tail is sent: in every sixteenth round a gigabyte of it.
void set_tail(HostileCase& made, uint64_t round, Draw& draw) {
  constexpr uint64_t kRounds = 16, kWhole = 3;
  made.tail = fmt::format("{:x}\r\n{}\r\n", kTailBytes, std::string(kTailBytes, 'a'));
  made.n_tails = round % kRounds == kWhole ? kGigabyte / kTailBytes : draw.below(16);
}

struct Kind {
  std::string_view name;
  std::string (*bytes)(Draw&);
  bool resets = false;  // always; else in one case of four
};

constexpr Kind kKinds[] = {{"flipped bits", flipped_request},
                           {"flipped bits of a body", flipped_body},
                           {"a request cut off", cut_request},
                           {"noise", noise},
                           {"deep JSON", deep_json},
                           {"wide JSON", wide_json},
                           {"broken UTF-8", broken_utf8},
                           {"odd values", odd_values},
                           {"doubled headers", doubled_headers},
                           {"a large head", large_head},
                           {"odd first lines", odd_lines},
                           {"broken chunks", broken_chunks},
                           {"an announced gigabyte", announced_gigabyte},
                           {"a large body", large_body},
                           {"a streamed body", streamed_body},
                           {"pipelined garbage", pipelined_garbage},
                           {"odd schemas", odd_schema},
                           {"a long order, left", long_order, true},
                           {"a long order, half closed", long_order}};

}  // namespace

size_t n_hostile_kinds() { return std::size(kKinds); }

HostileCase hostile_case(uint64_t seed, uint64_t number) {
  Draw draw(seed * 1000003 + number);
  const Kind& kind = kKinds[number % std::size(kKinds)];
  HostileCase made;
  made.kind = kind.name;
  made.bytes = kind.bytes(draw);
  if (kind.bytes == streamed_body) set_tail(made, number / std::size(kKinds), draw);
  if (kind.resets || draw.below(4) == 0) made.end = HostileCase::End::kReset;
  return made;
}

}  // namespace strata::soak
