// `strata tokenize`: the ids of a text, and the text of each.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/gguf/gguf_file.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/json_output.h"
#include "tools/cli/model_notes.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

/// The piece as text, or its bytes where it is only part of a character.
std::string shown_piece(const std::string& piece) {
  if (engine::utf8_fault(piece) == piece.size()) return fmt::format("'{}'", one_line(piece));
  std::string bytes;
  for (const char c : piece) bytes += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return bytes;
}

}  // namespace

int run_tokenize(const Command& command) {
  const Settings& settings = command.settings;
  AnswerSink sink = AnswerSink::open(settings.output);
  const std::string text = gather_prompt(command, kTokenizeSyntax.name);
  const auto file = engine::GgufFile::open(settings.model);
  const auto tokenizer = engine::Tokenizer::make(engine::read_tokenizer_spec(file));
  note_missing_pre_tokenizer(file);
  engine::EncodeOptions options;
  options.parse_special = settings.special;
  const auto tokens = tokenizer->encode(text, options);

  std::string out;
  if (settings.json) {
    auto pieces = nlohmann::ordered_json::array();
    for (const auto token : tokens) pieces.push_back(tokenizer->piece(token, true));
    out = json_line({{"tokens", tokens}, {"pieces", pieces}, {"n_tokens", tokens.size()}}) + "\n";
  } else if (settings.ids) {
    out = fmt::format("{}\n", fmt::join(tokens, " "));
  } else {
    for (const auto token : tokens)
      out += fmt::format("{:>8}  {}\n", token, shown_piece(tokenizer->piece(token, true)));
  }
  sink.write(out);
  sink.close();
  notice(fmt::format("{} tokens, {} bytes", tokens.size(), text.size()));
  return 0;
}

}  // namespace strata::cli
