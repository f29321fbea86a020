// tests/fuzz/tokenizer_fuzz.cc - libFuzzer target: any bytes as a text, and any vocabulary.
// The first byte chooses between a fixed vocabulary, for which the rest is the text, and one built
// from the bytes that follow: written as a model file, read back, made into a tokenizer. Wanted:
// success or strata::Error, and of what was encoded: ids of the vocabulary, no control token that
// nobody meant, the same text back, whole characters from the stream, work linear in the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/gguf/gguf_file.h"
#include "engine/gguf/gguf_writer.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/small_vocabulary.h"

namespace {

using namespace strata::engine;
using strata::engine::testing::add_token;
using strata::engine::testing::kMark;
using strata::engine::testing::make_bpe_spec;
using strata::engine::testing::make_spm_spec;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

/// Takes fields from the front of the input; zeros and empty texts once it is used up.
class Fields {
 public:
  Fields(const uint8_t* bytes, size_t size) : rest_(reinterpret_cast<const char*>(bytes), size) {}

  uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto first = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return first;
  }
  std::string text(size_t n) {
    n = std::min(n, rest_.size());
    std::string out(rest_.substr(0, n));
    rest_.remove_prefix(n);
    return out;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

constexpr const char* kPre[] = {"default", "gpt-2",        "llama-bpe",      "qwen2",
                                "smollm",  "deepseek-llm", "deepseek-coder", "deepseek-v3"};

void add_special_tokens(TokenizerSpec& spec) {
  for (const char* text : {"<|a|>", "<|ab|>", "<|im_end|>", "<<"})
    add_token(spec, text, TokenKind::kControl);
  for (const char* text : {"<mine>", "<mine><mine>", "<|a", "\n\n"})
    add_token(spec, text, TokenKind::kUserDefined);
}

const Tokenizer& fixed_tokenizer(uint32_t choice) {
  static const auto tokenizers = [] {
    std::vector<std::unique_ptr<Tokenizer>> out;
    for (const bool with_prefix : {false, true}) {
      auto spec = make_spm_spec({{std::string(kMark), -9},
                                 {"a", -8},
                                 {"b", -8},
                                 {"ab", -1},
                                 {"aa", -2},
                                 {"aaaa", -1},
                                 {std::string(kMark) + "a", -3},
                                 {"\xC3\xA9", -3},
                                 {"a\xC3\xA9", -1}});
      spec.add_space_prefix = with_prefix;
      add_special_tokens(spec);
      out.push_back(Tokenizer::make(std::move(spec)));
    }
    for (const char* pre : kPre) {
      auto spec = make_bpe_spec({{"a", "b"},
                                 {"a", "a"},
                                 {"aa", "aa"},
                                 {" ", "a"},
                                 {"\xC3", "\xA9"},
                                 {"\n", "\n"},
                                 {" ", " "},
                                 {"1", "2"},
                                 {"'", "s"}},
                                pre);
      spec.ignore_merges = std::string_view(pre) == "llama-bpe";
      add_special_tokens(spec);
      out.push_back(Tokenizer::make(std::move(spec)));
    }
    return out;
  }();
  return *tokenizers[choice % tokenizers.size()];
}

/// A vocabulary as a file's keys: a few tokens, some of them parts of others, with any flaw.
TokenizerSpec spec_of(Fields& fields) {
  const uint8_t flags = fields.byte();
  static const TokenizerSpec kBases[] = {make_bpe_spec({}), make_spm_spec({}, false),
                                         make_bpe_spec({{"a", "b"}}),
                                         make_spm_spec({{std::string(kMark), -9}})};
  TokenizerSpec spec = kBases[flags % 4];
  // The long regexes of the others take a millisecond to compile; as fixed vocabularies they are
  // compiled once.
  if (!(flags & 1)) spec.pre = fields.byte() % 8 == 0 ? "llama-bpe" : "gpt-2";
  if (flags & 4) spec.tokens.clear(), spec.kinds.clear(), spec.scores.clear();
  spec.add_bos = flags & 8;
  spec.add_eos = flags & 16;
  spec.add_space_prefix = flags & 32;
  const size_t n_tokens = fields.byte() % 32;
  for (size_t i = 0; i < n_tokens; ++i) {
    const uint8_t head = fields.byte();
    std::string text;
    if (head < 160 || spec.tokens.size() < 2) {
      text = fields.text(head % 8);
    } else {  // of two tokens, and their merge
      const std::string left = spec.tokens[fields.byte() % spec.tokens.size()];
      const std::string right = spec.tokens[spec.tokens.size() - 1 - fields.byte() % 2];
      text = left + right;
      spec.merges.push_back(left + " " + right);
    }
    add_token(spec, text, static_cast<TokenKind>(head % 16 == 15 ? fields.byte() % 9 : 1),
              -static_cast<float>(head % 5));
  }
  if (flags & 64) spec.merges.push_back(fields.text(fields.byte() % 8));
  if (flags & 128) {
    for (TokenId* id : {&spec.bos, &spec.eos, &spec.unk, &spec.eot, &spec.pad})
      *id = static_cast<TokenId>(fields.byte()) - 2;
    if (fields.byte() % 4 == 0 && !spec.scores.empty()) spec.scores.pop_back();
    if (fields.byte() % 4 == 0) spec.kinds.push_back(TokenKind::kNormal);
  }
  return spec;
}

/// The spec as a file holds it, read back.
TokenizerSpec through_a_file(const TokenizerSpec& spec) {
  GgufWriter writer;
  writer.add_string("general.architecture", "llama");
  writer.add_string("tokenizer.ggml.model", spec.model);
  writer.add_string("tokenizer.ggml.pre", spec.pre);
  writer.add_strings("tokenizer.ggml.tokens", spec.tokens);
  if (!spec.scores.empty()) writer.add_reals("tokenizer.ggml.scores", spec.scores);
  std::vector<int32_t> kinds;
  for (const TokenKind kind : spec.kinds) kinds.push_back(static_cast<int32_t>(kind));
  writer.add_ints("tokenizer.ggml.token_type", kinds);
  if (spec.model == "gpt2") writer.add_strings("tokenizer.ggml.merges", spec.merges);
  const auto add_id = [&](const char* name, TokenId id) {
    writer.add_uint(std::string("tokenizer.ggml.") + name + "_token_id", static_cast<uint32_t>(id));
  };
  add_id("bos", spec.bos);
  add_id("eos", spec.eos);
  add_id("eot", spec.eot);
  add_id("unknown", spec.unk);
  add_id("padding", spec.pad);
  writer.add_bool("tokenizer.ggml.add_bos_token", spec.add_bos);
  writer.add_bool("tokenizer.ggml.add_eos_token", spec.add_eos);
  writer.add_bool("tokenizer.ggml.add_space_prefix", spec.add_space_prefix);
  const auto bytes = writer.serialise();
  return read_tokenizer_spec(GgufFile::parse(bytes, bytes.size(), "fuzz"));
}

/// Without spaces and marks: SPM puts spaces before texts, and the mark stands for one.
std::string without_spaces(std::string text) {
  for (size_t at; (at = text.find(kMark)) != std::string::npos;) text.erase(at, kMark.size());
  std::erase(text, ' ');
  return text;
}

void check_text(const Tokenizer& tokenizer, std::string_view text, bool parse_special) {
  const TokenizerSpec& spec = tokenizer.spec();
  EncodeWork work;
  const auto ids =
      tokenizer.encode(text, {.add_special = false, .parse_special = parse_special, .work = &work});
  require(utf8_fault(text) == text.size(), "only UTF-8 is encoded");
  require(work.steps() <= 12 * (4 * text.size() + 64), "work is linear");
  bool has_unknown = false;
  StreamDecoder decoder(tokenizer);
  std::string streamed;
  for (const TokenId id : ids) {
    require(id >= 0 && static_cast<size_t>(id) < spec.tokens.size(), "ids are of the vocabulary");
    const TokenKind kind = spec.kinds[static_cast<size_t>(id)];
    has_unknown = has_unknown || kind == TokenKind::kUnknown || id == spec.unk;
    require(parse_special || kind != TokenKind::kControl || id == spec.unk, "control stays text");
    const std::string_view part = decoder.push(id);
    require(utf8_fault(part) == part.size(), "whole characters are shown");
    streamed += part;
  }
  streamed += decoder.finish();
  if (has_unknown) return;
  const std::string decoded = tokenizer.decode(ids, true);
  const bool is_spm = spec.model == "llama";
  require(is_spm ? without_spaces(decoded) == without_spaces(std::string(text)) : decoded == text,
          "the text comes back");
  if (!parse_special)
    require(is_spm ? without_spaces(streamed) == without_spaces(decoded) : streamed == decoded,
            "the stream shows the text");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  Fields fields(bytes, size);
  const uint8_t choice = fields.byte();
  const bool parse_special = choice & 1;
  try {
    if (choice & 2) {
      const auto tokenizer = Tokenizer::make(through_a_file(spec_of(fields)));
      check_text(*tokenizer, fields.rest(), parse_special);
      (void)tokenizer->encode(fields.rest(), {});
    } else {
      check_text(fixed_tokenizer(choice >> 2), fields.rest(), parse_special);
    }
  } catch (const strata::Error& error) {
    require(error.what()[0] != '\0' && !error.where().empty(), "an error says what and where");
    require(std::string_view(error.what()).size() < 1000, "a message is short");
    const bool is_text = error.code() == strata::ErrorCode::kBadText;
    require(is_text || choice & 2, "a fixed vocabulary is accepted");
    if (is_text && !(choice & 2))
      require(utf8_fault(fields.rest()) != fields.rest().size(), "UTF-8 is encoded");
  }
  return 0;
}
