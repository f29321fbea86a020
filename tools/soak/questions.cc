#include "tools/soak/questions.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <string_view>
#include <thread>

#include "base/seconds_since.h"

namespace strata::soak {
namespace {

using Clock = std::chrono::steady_clock;
using Random = std::mt19937_64;

constexpr uint32_t kWordsMin = 8, kTokensMin = 8;

std::vector<std::string> drawn_words(Random& draw, size_t n) {
  std::vector<std::string> words(n);
  for (std::string& word : words)
    for (uint64_t left = 2 + draw() % 6; left > 0; --left)
      word += static_cast<char>('a' + draw() % 26);
  return words;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += word + " ";
  text.pop_back();
  return text;
}

/// Errors: nlohmann's, where a field has another type than clients expect.
void take_fields(const nlohmann::json& json, StreamedAnswer& answer, double since_s) {
  if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object())
    answer.n_tokens = usage->value("completion_tokens", uint64_t{0});
  const auto choices = json.find("choices");
  if (choices == json.end() || choices->empty()) return;
  const nlohmann::json& choice = choices->at(0);
  answer.text += choice.value("text", "");
  if (choice.contains("finish_reason") && !choice["finish_reason"].is_null())
    answer.finish_reason = choice["finish_reason"].get<std::string>();
  if (answer.first_token_s == 0) answer.first_token_s = since_s;
  answer.per_token_s = since_s - answer.first_token_s;  // of all; divided at the end
}

/// Takes one event of the stream into the answer.
void take_event(std::string_view event, double since_s, StreamedAnswer& answer) {
  constexpr std::string_view kBegin = "data: ";
  if (!event.starts_with(kBegin)) return;  // a comment
  event.remove_prefix(kBegin.size());
  if (event.starts_with("[DONE]")) {
    answer.is_whole = true;
    return;
  }
  try {
    take_fields(nlohmann::json::parse(event), answer, since_s);
  } catch (const nlohmann::json::exception& error) {
    answer.fault = error.what();
  }
}

}  // namespace

std::string question_body(const std::string& prompt, uint32_t n_tokens) {
  return nlohmann::json({{"prompt", prompt},
                         {"max_tokens", n_tokens},
                         {"temperature", 0},
                         {"stream", true},
                         {"stream_options", {{"include_usage", true}}}})
      .dump();
}

std::vector<std::string> drawn_questions(uint64_t seed, size_t n, uint32_t n_words_max,
                                         uint32_t n_tokens_max) {
  Random draw(seed);
  std::vector<std::vector<std::string>> prompts;
  std::vector<std::string> bodies;
  for (size_t i = 0; i < n; ++i) {
    auto words = drawn_words(draw, kWordsMin + draw() % (n_words_max - kWordsMin + 1));
    if (i > 0 && draw() % 2 == 0) {
      const auto& earlier = prompts[draw() % i];
      const size_t n_shared = std::min(words.size() - 1, earlier.size());
      std::copy_n(earlier.begin(), n_shared, words.begin());
    }
    const auto n_tokens =
        static_cast<uint32_t>(kTokensMin + draw() % (n_tokens_max - kTokensMin + 1));
    bodies.push_back(question_body(joined(words), n_tokens));
    prompts.push_back(std::move(words));
  }
  return bodies;
}

StreamedAnswer ask(SocketClient& client, const std::string& body, const Manner& manner) {
  StreamedAnswer answer;
  const auto begin = Clock::now();
  if (!client.request("POST", "/v1/completions", body)) return answer;
  const Reply head = client.read_head();
  answer.status = head.status;
  if (head.status != 200) {
    if (const auto length = head.headers.find("content-length"); length != head.headers.end())
      client.read_exactly(std::strtoull(length->second.c_str(), nullptr, 10), answer.refusal);
    if (const auto after = head.headers.find("retry-after"); after != head.headers.end())
      answer.retry_after = std::chrono::seconds(std::strtol(after->second.c_str(), nullptr, 10));
    return answer;
  }
  std::string event;
  for (uint32_t n = 0; client.read_chunk(event); event.clear()) {
    // A chunk may hold several events; one event lies in one chunk.
    for (size_t at = 0; at < event.size();) {
      const size_t end = std::min(event.find("\n\n", at), event.size());
      take_event(std::string_view(event).substr(at, end - at), seconds_since(begin), answer);
      at = end + 2;
    }
    if (++n >= manner.leaves_after) {
      client.close();
      break;
    }
    if (manner.pause.count() > 0) std::this_thread::sleep_for(manner.pause);
  }
  if (answer.n_tokens > 1) answer.per_token_s /= static_cast<double>(answer.n_tokens - 1);
  return answer;
}

}  // namespace strata::soak
