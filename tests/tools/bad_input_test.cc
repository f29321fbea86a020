// What the user sees of every kind of bad input: one line with what, where and remedy, nothing on
// standard output, the exit code; and with --json the same as one object.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using engine::testing::make_small_model;
using engine::testing::RawGguf;
using engine::testing::SmallModel;
using testing::as_json;
using testing::Launch;
using testing::Outcome;
using testing::Refusal;
using testing::run_saying_a;
using testing::run_strata;

class BadInput : public testing::RefusalTest {};

std::string file_text(const SmallModel& model) {
  const std::vector<std::byte> bytes = model.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Model files.

TEST_F(BadInput, FileCutAnywhereIsNamedWithTheOffset) {
  const std::string whole = file_text(make_small_model());
  for (const size_t size : {size_t{0}, size_t{3}, size_t{4}, size_t{10}, size_t{23}, size_t{700},
                            size_t{1500}, whole.size() / 2, whole.size() - 1}) {
    SCOPED_TRACE(size);
    const std::string path = folder_.write("cut.gguf", whole.substr(0, size));
    expect_refused(
        {"run", "-m", path, "-p", "a"},
        {4, "bad_file", {"truncated: wanted ", "found "}, "cut.gguf: ", "fetch the file"});
  }
  const std::string path = folder_.write("cut.gguf", whole.substr(0, 700));
  for (const std::string verb : {"inspect", "chat", "bench"})
    expect_refused(
        {verb, "-m", path},
        {4, "bad_file", {"truncated: wanted ", "found "}, "cut.gguf: ", "fetch the file"});
}

TEST_F(BadInput, HostileCountsAreRefusedBeforeAnythingIsAllocated) {
  Launch launch;
  if (!testing::address_space_is_reserved()) launch.address_space_bytes = uint64_t{256} << 20;
  const auto refuse = [&](const RawGguf& raw, const std::string& what) {
    launch.arguments = {"run", "-m", folder_.write("hostile.gguf", raw.bytes()), "-p", "a"};
    expect_refused(launch, {4, "bad_file", {what, "wanted", "found"}, "hostile.gguf: ", "the "});
  };
  constexpr uint64_t kHuge = uint64_t{1} << 60;
  refuse(RawGguf().header(kHuge, 0), "tensor count: wanted at most 262144, found");
  refuse(RawGguf().header(0, kHuge), "key count: wanted at most 65536, found");
  refuse(RawGguf().header(0, 1).u64(kHuge).zeros(32), "key");
  refuse(RawGguf().header(0, 1).string("tokenizer.ggml.tokens").u32(9).u32(8).u64(kHuge).zeros(32),
         "");
}

TEST_F(BadInput, AnotherFormatIsNotGguf) {
  const std::string path = folder_.write("model.safetensors", std::string(64, 'x'));
  expect_refused({"run", "-m", path, "-p", "a"},
                 {4,
                  "bad_file",
                  {"not a GGUF file", "wanted the bytes 47 47 55 46, found 78"},
                  "model.safetensors",
                  "converted"});
}

TEST_F(BadInput, UnknownArchitectureNamesTheKnownOnes) {
  SmallModel small = make_small_model();
  small.set("general.architecture", std::string("mamba"));
  expect_refused({"run", "-m", model(small), "-p", "a"},
                 {4,
                  "unsupported",
                  {"wanted an architecture of llama", "found \"mamba\""},
                  "general.architecture",
                  "use a model"});
}

TEST_F(BadInput, UnknownTensorTypeIsNamed) {
  RawGguf raw;
  raw.header(1, 1).string("general.architecture").u32(8).string("llama");
  raw.tensor("token_embd.weight", {32, 16}, 39, 0).zeros(8192);
  expect_refused({"run", "-m", folder_.write("type.gguf", raw.bytes()), "-p", "a"},
                 {4, "unsupported", {"type", "39"}, "token_embd.weight", ""});
}

TEST_F(BadInput, MissingTensorIsNamed) {
  SmallModel small = make_small_model();
  small.erase_tensor("blk.1.ffn_up.weight");
  expect_refused(
      {"run", "-m", model(small), "-p", "a"},
      {4, "bad_file", {"missing tensors", "blk.1.ffn_up.weight"}, "model.gguf", "fetch"});
}

TEST_F(BadInput, TokenizerWithoutVocabularyIsNamed) {
  SmallModel small = make_small_model();
  small.erase_key("tokenizer.ggml.tokens");
  expect_refused({"run", "-m", model(small), "-p", "a"},
                 {4, "bad_file", {"no vocabulary"}, "tokenizer.ggml.tokens", "again"});
}

TEST_F(BadInput, BrokenChatTemplateIsNamedAndRawGoesOn) {
  SmallModel small = make_small_model();
  for (const std::string text :
       {"{{ messages[0].content", "{% for m in messages %}", "{{ raise_exception('no') }}",
        "{% for i in range(99999999) %}x"
        "{% endfor %}"}) {
    SCOPED_TRACE(text);
    small.set("tokenizer.chat_template", text);
    const std::string path = model(small);
    expect_refused({"run", "-m", path, "-p", "a"},
                   {4, "template", {"the model's chat template fails"}, "line 1", "--raw"});
    EXPECT_EQ(run_strata({"run", "-m", path, "-p", "a", "-n", "1", "--raw"}).exit_code, 0);
  }
}

TEST_F(BadInput, ModelThatIsNotThereOrNoFileIsNamed) {
  expect_refused({"run", "-m", folder_.path("absent.gguf"), "-p", "a"},
                 {1, "io", {"cannot open", "No such file"}, "absent.gguf", "check the path"});
  expect_refused({"run", "-m", folder_.path("."), "-p", "a"},
                 {1,
                  "io",
                  {"wanted a regular file, found a directory"},
                  folder_.path("."),
                  "name the .gguf file"});
}

// Prompts.

TEST_F(BadInput, PromptThatIsNotUtf8IsNamedWithByteAndOffset) {
  const std::string path = small_model();
  const std::string latin1 = "caf\xe9 a";
  const Refusal refusal = {
      2, "bad_text", {"wanted UTF-8 text, found byte 0xe9 at offset 3"}, "", "iconv"};
  expect_refused({"run", "-m", path, "-p", latin1}, refusal);
  expect_refused({"run", "-m", path, "-f", folder_.write("latin1.txt", latin1), "-p", "a"},
                 {2, "bad_text", refusal.what, "latin1.txt", "iconv"});
  expect_refused({"tokenize", "-m", path, "-p", latin1}, refusal);
  Launch launch;
  launch.arguments = {"run", "-m", path, "-p", "a"};
  launch.has_input = true;
  launch.input = latin1;
  expect_refused(launch, {2, "bad_text", refusal.what, "stdin", "iconv"});
}

TEST_F(BadInput, EmptyPromptIsRefusedAndNoPromptSaysHowToGiveOne) {
  const std::string path = small_model();
  expect_refused({"run", "-m", path, "-p", ""},
                 {2, "bad_text", {"the prompt is empty"}, "strata run", "give a text"});
  expect_refused({"run", "-m", path, "-f", folder_.write("empty.txt", "")},
                 {2, "bad_text", {"the prompt is empty"}, "strata run", "give a text"});
  Launch launch;
  launch.arguments = {"run", "-m", path};
  expect_refused(launch, {2, "usage", {"there is no prompt"}, "strata run", "-p TEXT"});
  launch.has_input = true;
  expect_refused(launch, {2, "bad_text", {"the prompt is empty"}, "strata run", "give a text"});
  expect_refused(
      {"run", "-m", path, "-f", folder_.path("absent.txt")},
      {1, "io", {"cannot open", "absent.txt", "No such file"}, "--file", "check the path"});
}

TEST_F(BadInput, PromptLongerThanTheContextIsRefusedBeforeAnyWeightIsRead) {
  const std::string path = small_model();  // trained for 64 tokens
  const std::string prompt(70, 'a');       // BOS, a leading space and 70 letters
  const std::vector<std::string> words = {"context_length_exceeded", "the request has 72 tokens",
                                          "exceeds the available context size of 64 tokens",
                                          "n_prompt_tokens=72, n_ctx=64"};
  const std::vector<std::string> arguments = {"run", "-m", path, "-p", prompt};
  // One line on standard error: neither the setup nor the progress of loading came before it.
  expect_refused(arguments, {3, "context_length_exceeded", words, "prompt",
                             "shorten the prompt to fewer than 64 tokens"});
  const auto printed = nlohmann::json::parse(
      run_strata({"run", "-m", path, "-p", prompt, "--json"}).out, nullptr, false);
  EXPECT_EQ(printed["error"].value("n_prompt_tokens", 0), 72);
  EXPECT_EQ(printed["error"].value("n_ctx", 0), 64);
  expect_refused({"run", "-m", path, "-p", std::string(40, 'a'), "-c", "32"},
                 {3, "context_length_exceeded", {"42 tokens", "32 tokens"}, "prompt", "-c 64"});
}

// Output.

TEST_F(BadInput, OutputThatCannotBeWrittenIsNamedBeforeAnyWork) {
  const std::string path = small_model();
  expect_refused(
      {"run", "-m", path, "-p", "a", "-o", folder_.path("absent/answer.txt")},
      {1, "io", {"cannot write the answer: No such file"}, "absent/answer.txt", "folder exists"});
  expect_refused(
      {"inspect", path, "-o", folder_.path(".")},
      {1, "io", {"cannot write the answer: Is a directory"}, folder_.path("."), "name a file"});
}

TEST_F(BadInput, FullDiskIsNamedAndNeverTakenForSuccess) {
  const std::string path = small_model();
  const auto expect_full = [](const Outcome& outcome, const std::string& where) {
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_NE(outcome.err.find("error: cannot write the answer: No space left on device [" + where +
                               "] (remedy: free space"),
              std::string::npos)
        << outcome.err;
  };
  auto to_file = run_saying_a(path, "4");
  to_file.insert(to_file.end(), {"-o", "/dev/full"});
  expect_full(run_strata(to_file), "/dev/full");
  Launch launch;
  launch.output_path = "/dev/full";
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{run_saying_a(path, "4"),
                                             as_json(run_saying_a(path, "4")),
                                             {"tokenize", "-m", path, "-p", "a"},
                                             {"bench", "-m", path, "-p", "8", "-n", "0", "-r", "1"},
                                             {"inspect", path},
                                             {"--version"}}) {
    launch.arguments = arguments;
    SCOPED_TRACE(arguments[0]);
    expect_full(run_strata(launch), "standard output");
  }
}

TEST_F(BadInput, ClosedOutputIsNamedBeforeAnyWork) {
  Launch launch;
  launch.closes_output = true;
  const std::string path = small_model();
  const std::string before = file_text(make_small_model());
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{run_saying_a(path, "4"),
                                             {"chat", "-m", path},
                                             {"inspect", path, "--json"},
                                             {"--help"}}) {
    launch.arguments = arguments;
    SCOPED_TRACE(arguments[0]);
    const Outcome outcome = run_strata(launch);
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_EQ(outcome.err,
              "error: cannot write the answer: it is closed [standard output] (remedy: leave it "
              "open, or send it to a file or a pipe)\n");
  }
}

TEST_F(BadInput, ReaderThatWentAwayIsNamed) {
  engine::testing::SmallModelOptions options;
  options.n_ctx_train = 1 << 16;
  testing::StrataProcess process(run_saying_a(model(make_small_model(options)), "-1"),
                                 testing::StrataProcess::Input::kNone);
  ASSERT_TRUE(process.wait_for_out("a"));
  process.close_out();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("error: cannot write the answer: Broken pipe [standard output] "
                             "(remedy: keep the reader of the pipe open)"),
            std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace strata::cli
