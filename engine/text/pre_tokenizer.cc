#include "engine/text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "engine/text/tokenizer_check.h"

namespace strata::engine {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kLineBreak = R"([\r\n])";
constexpr std::string_view kCjk = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
// The cased letters of the Unicode version that deepseek-llm's tokenizer was made with, spelt out
// there.
constexpr std::string_view kDeepseekLetters =
    R"(\s?[)"
    R"(\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF})"
    R"(\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})"
    R"(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15})"
    R"(\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B})"
    R"(\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
    R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
    R"(\x{1E900}-\x{1E943})"
    R"(]+)";
constexpr std::string_view kDeepseekMarks =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
// The original is \s+$. Searching it tries every place of a run of spaces that is not at the end,
// each to the end of the run: quadratic. A run can only match from its start and only whole, which
// the look-behind and the possessive quantifier say.
constexpr std::string_view kTrailingSpace = R"((?<!\s)\s++\z)";
constexpr std::string_view kDeepseekV3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr size_t kMaxPatterns = 6;
struct Rule {
  std::string_view name;
  std::array<std::string_view, kMaxPatterns> patterns;  // the unused ones are empty
};

constexpr Rule kRules[] = {
    {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}},
    {"gpt-2", {kGpt2}},
    {"mpt", {kGpt2}},
    {"llama-bpe", {kLlama3}},
    {"llama3", {kLlama3}},
    {"llama-v3", {kLlama3}},
    {"smaug-bpe", {kLlama3}},
    {"qwen2", {kQwen2}},
    {"deepseek-r1-qwen", {kQwen2}},
    {"smollm", {kDigit, kGpt2}},
    {"starcoder", {kDigit, kGpt2}},
    {"refact", {kDigit, kGpt2}},
    {"deepseek-llm", {kLineBreak, kDeepseekLetters, kDeepseekMarks, kTrailingSpace, kCjk, kDigit}},
    {"deepseek-coder", {kLineBreak, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk, kDigit}},
    {"deepseek-v3",
     {R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)", kDeepseekV3}},
};

const Rule* find_rule(std::string_view name) {
  const auto* found = std::find_if(std::begin(kRules), std::end(kRules),
                                   [&](const Rule& rule) { return rule.name == name; });
  return found == std::end(kRules) ? nullptr : found;
}

/// Spells \s and \S out as Unicode's White_Space property, which the models' own regex engines use.
/// PCRE2's \s also matches U+180E, which lost the property in Unicode 6.3.
std::string with_white_space(std::string_view pattern) {
  constexpr std::string_view kMembers = R"(\t-\r\x{85}\p{Z})";
  std::string out;
  bool is_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\') {
      if (c == '[') is_class = true;
      if (c == ']') is_class = false;
      out.push_back(c);
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += is_class ? std::string(kMembers) : fmt::format("[{}]", kMembers);
    } else if (escaped == 'S') {
      STRATA_CHECK(!is_class, "a class in a class at %zu", i);
      out += fmt::format("[^{}]", kMembers);
    } else {
      out.push_back(c);
      out.push_back(escaped);
    }
  }
  return out;
}

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchFree {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct ContextFree {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeFree>;
using Match = std::unique_ptr<pcre2_match_data, MatchFree>;
using Context = std::unique_ptr<pcre2_match_context, ContextFree>;

Code compile(std::string_view pattern) {
  const std::string source = with_white_space(pattern);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &error_offset,
                          nullptr));
  STRATA_CHECK(code != nullptr, "regex %s: error %d at %zu", source.c_str(), error, error_offset);
  // Where the processor or the kernel allows no JIT, the interpreter gives the same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

/// Searches one subject. Text is checked once, by the caller: PCRE2 would check the rest of the
/// subject before every match.
class Searcher {
 public:
  explicit Searcher(uint64_t text_bytes)
      : match_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
    if (match_ == nullptr || context_ == nullptr) throw std::bad_alloc();
    // One match backtracks at most a few times per byte with these patterns; the limits only catch
    // what that overlooks.
    const uint64_t limit = std::min<uint64_t>(text_bytes * 64 + 100'000, UINT32_MAX);
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(limit));
    pcre2_set_depth_limit(context_.get(), static_cast<uint32_t>(limit));
  }

  /// Finds the first match at or after `from`; false where there is none.
  bool find(const pcre2_code* code, std::string_view subject, size_t from) {
    const auto* bytes = reinterpret_cast<PCRE2_SPTR>(subject.data());
    int status = pcre2_match(code, bytes, subject.size(), from, PCRE2_NO_UTF_CHECK, match_.get(),
                             context_.get());
    if (status == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter backtracks on the heap
      status = pcre2_match(code, bytes, subject.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           match_.get(), context_.get());
    if (status == PCRE2_ERROR_NOMATCH) return false;
    if (status < 0)
      throw Error(ErrorCode::kBadText,
                  fmt::format("the pre-tokenizer gave up on {} bytes of text (PCRE2 error {})",
                              subject.size(), status),
                  "text",
                  "Split the text, or report it: this is a limit that no text should reach.");
    return true;
  }
  size_t begin() const { return pcre2_get_ovector_pointer(match_.get())[0]; }
  size_t end() const { return pcre2_get_ovector_pointer(match_.get())[1]; }

 private:
  Match match_;
  Context context_;
};

/// Cuts every stretch that `ends` bounds at the matches of one regex.
std::vector<uint32_t> cut(const pcre2_code* code, std::string_view text,
                          std::span<const uint32_t> ends, Searcher& searcher, EncodeWork& work) {
  std::vector<uint32_t> out;
  out.reserve(ends.size());
  uint32_t base = 0;
  for (const uint32_t stretch_end : ends) {
    const std::string_view subject = text.substr(base, stretch_end - base);
    size_t done = 0;
    while (done < subject.size()) {
      ++work.matches;
      if (!searcher.find(code, subject, done)) break;
      STRATA_CHECK(searcher.end() > searcher.begin(), "an empty match at %zu", searcher.begin());
      if (searcher.begin() > done) out.push_back(base + static_cast<uint32_t>(searcher.begin()));
      done = searcher.end();
      out.push_back(base + static_cast<uint32_t>(done));
    }
    if (done < subject.size()) out.push_back(stretch_end);
    base = stretch_end;
  }
  return out;
}

}  // namespace

struct PreTokenizer::Compiled {
  std::vector<Code> codes;
};

PreTokenizer::PreTokenizer(std::string_view name) {
  const Rule* rule = find_rule(name);
  if (rule == nullptr)
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("unknown pre-tokenizer {}; known: {}", quoted_start(name), known_names()),
        "tokenizer.ggml.pre",
        "Use a model with a known pre-tokenizer, or convert it again with a current converter.");
  auto compiled = std::make_unique<Compiled>();
  for (const std::string_view pattern : rule->patterns)
    if (!pattern.empty()) compiled->codes.push_back(compile(pattern));
  compiled_ = std::move(compiled);
}

PreTokenizer::~PreTokenizer() = default;

bool PreTokenizer::is_known(std::string_view name) { return find_rule(name) != nullptr; }

std::string PreTokenizer::known_names() {
  std::string names;
  for (const Rule& rule : kRules) names += (names.empty() ? "" : ", ") + std::string(rule.name);
  return names;
}

std::vector<uint32_t> PreTokenizer::split(std::string_view text, EncodeWork& work) const {
  std::vector<uint32_t> ends;
  if (text.empty()) return ends;
  ends.push_back(static_cast<uint32_t>(text.size()));
  Searcher searcher(text.size());
  for (const Code& code : compiled_->codes) ends = cut(code.get(), text, ends, searcher, work);
  return ends;
}

}  // namespace strata::engine
