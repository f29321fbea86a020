#include "engine/inspect.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/model_spec.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::parse_file;
using testing::RawGguf;
using testing::SmallModel;
using testing::TestFolder;

ModelFacts facts_of(const SmallModel& model) { return inspect_model(parse_file(model.bytes())); }

TEST(Inspect, GivesTheFactsOfAModel) {
  const SmallModel model = make_small_model();
  const ModelFacts facts = facts_of(model);
  EXPECT_TRUE(facts.can_run);
  EXPECT_EQ(facts.why_not, "");
  EXPECT_EQ(facts.architecture, "llama");
  EXPECT_EQ(facts.name, "small");
  EXPECT_EQ(facts.license, "apache-2.0");
  EXPECT_EQ(facts.file_bytes, model.bytes().size());
  EXPECT_EQ(facts.gguf_version, 3u);
  EXPECT_EQ(facts.n_shards, 1u);
  EXPECT_EQ(facts.n_layers, 2u);
  EXPECT_EQ(facts.n_heads, 4u);
  EXPECT_EQ(facts.n_kv_heads, 2u);
  EXPECT_EQ(facts.head_dim, 8u);
  EXPECT_EQ(facts.d_model, 32u);
  EXPECT_EQ(facts.d_ff, 48u);
  EXPECT_EQ(facts.vocab_size, 16u);
  EXPECT_EQ(facts.n_ctx_train, 64u);
  EXPECT_EQ(facts.kv_bytes_per_token, 128u);  // 2 layers x 2 heads x 8 x (K, V) x 2 bytes
  // Embedding, final norm; per layer two norms, q and output, k and v, and three of d_ff.
  const uint64_t layer = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48;
  EXPECT_EQ(facts.parameters, 32 * 16 + 32 + 2 * layer);
  EXPECT_EQ(facts.tokenizer_model, "llama");
  EXPECT_EQ(facts.tokenizer_pre, "");
  EXPECT_EQ(facts.n_tokens, 4u);
  EXPECT_EQ(facts.chat_template, "{{ messages[0].content }}");
  EXPECT_EQ(facts.chat_template_sha256,  // of sha256sum
            "21b1d9c74a217211f93d54eca585c322017b9008d86619712ec946b10cf156f1");
  EXPECT_TRUE(facts.named_templates.empty());
  EXPECT_EQ(facts.layers.size(), 2u);
  EXPECT_EQ(facts.tensors.size(), 20u);
}

TEST(Inspect, CountsTensorTypesByBytes) {
  const std::vector<std::byte> bytes(4096);
  GgufWriter writer;
  writer.add_tensor("a", TensorType::kF16, {2}, std::span(bytes).first(4));
  writer.add_tensor("b", TensorType::kQ8_0, {32, 4}, std::span(bytes).first(136));
  writer.add_tensor("c", TensorType::kF32, {1}, std::span(bytes).first(4));
  writer.add_tensor("d", TensorType::kQ8_0, {32}, std::span(bytes).first(34));
  const std::vector<std::byte> file = writer.serialise();
  const ModelFacts facts = inspect_model(GgufFile::parse(file, file.size(), "m.gguf"));
  ASSERT_EQ(facts.tensor_types.size(), 3u);
  EXPECT_EQ(facts.tensor_types[0].type, "Q8_0");
  EXPECT_EQ(facts.tensor_types[0].n_tensors, 2u);
  EXPECT_EQ(facts.tensor_types[0].bytes, 170u);
  EXPECT_EQ(facts.tensor_types[1].type, "F16");
  EXPECT_EQ(facts.tensor_types[2].type, "F32");
  EXPECT_EQ(facts.parameters, 2u + 128u + 1u + 32u);
}

TEST(Inspect, GivesTheLargestOfLayersThatDiffer) {
  SmallModel model = make_small_model({.architecture = "gemma3", .n_layers = 7});
  const ModelFacts facts = facts_of(model);
  ASSERT_TRUE(facts.can_run) << facts.why_not;
  ASSERT_EQ(facts.layers.size(), 7u);
  EXPECT_EQ(layer_kind_name(facts.layers[4].kind), "window");
  EXPECT_EQ(facts.layers[4].window, 16u);
  EXPECT_EQ(layer_kind_name(facts.layers[5].kind), "full");
  model.set("gemma3.attention.head_count", std::vector<int32_t>{1, 2, 3, 4, 3, 2, 1});
  model.set("gemma3.block_count", uint32_t{8});  // no longer what the tensors say
  const ModelFacts other = facts_of(model);
  EXPECT_FALSE(other.can_run);
  EXPECT_EQ(other.n_heads, 4u);
}

TEST(Inspect, SaysWhyAModelCannotRunAndWhatIsKnownAllTheSame) {
  SmallModel model = make_small_model();
  model.set("general.architecture", std::string("mamba"));
  model.set("mamba.block_count", uint32_t{48});
  model.set("mamba.embedding_length", uint64_t{1} << 40);  // no number of ours
  model.set("mamba.context_length", std::string("long"));
  const ModelFacts facts = facts_of(model);
  EXPECT_FALSE(facts.can_run);
  EXPECT_NE(facts.why_not.find("found \"mamba\""), std::string::npos);
  EXPECT_EQ(facts.why_not_where, "m.gguf: key general.architecture");
  EXPECT_EQ(facts.remedy, "use a model of one of these architectures");
  EXPECT_EQ(facts.architecture, "mamba");
  EXPECT_EQ(facts.n_layers, 48u);
  EXPECT_EQ(facts.d_model, std::nullopt);
  EXPECT_EQ(facts.n_ctx_train, std::nullopt);
  EXPECT_EQ(facts.n_heads, std::nullopt);
  EXPECT_EQ(facts.kv_bytes_per_token, std::nullopt);
  EXPECT_EQ(facts.vocab_size, 16u);
  EXPECT_TRUE(facts.layers.empty());
}

TEST(Inspect, TakesAFileOfNothing) {
  const ModelFacts facts = inspect_model(parse_file(RawGguf().header(0, 0).bytes()));
  EXPECT_FALSE(facts.can_run);
  EXPECT_EQ(facts.architecture, "");
  EXPECT_EQ(facts.parameters, 0u);
  EXPECT_EQ(facts.n_tokens, std::nullopt);
  EXPECT_EQ(facts.vocab_size, std::nullopt);
  EXPECT_EQ(facts.chat_template, std::nullopt);
  EXPECT_EQ(facts.chat_template_sha256, "");
}

TEST(Inspect, KeepsControlCharactersFromATerminal) {
  SmallModel model = make_small_model();
  model.set("general.name", std::string("a\x1b[2J\r\nb\x7f \xc2\x9b"
                                        "31m \xc3\xa9"));
  model.set("tokenizer.ggml.pre", std::string("\x07x"));
  const ModelFacts facts = facts_of(model);
  EXPECT_EQ(facts.name, "a?[2J??b? ??31m \xc3\xa9");
  EXPECT_EQ(facts.tokenizer_pre, "?x");
}

TEST(Inspect, TakesTextOfAnotherTypeAsAbsent) {
  SmallModel model = make_small_model();
  model.set("general.name", uint32_t{7});
  model.set("general.license", std::vector<std::string>{"mit"});
  model.set("tokenizer.chat_template", 1.0f);
  model.set("tokenizer.ggml.tokens", uint32_t{5});
  const ModelFacts facts = facts_of(model);
  EXPECT_EQ(facts.name, "");
  EXPECT_EQ(facts.license, "");
  EXPECT_EQ(facts.chat_template, std::nullopt);
  EXPECT_EQ(facts.n_tokens, std::nullopt);
}

TEST(Inspect, NamesFurtherTemplates) {
  SmallModel model = make_small_model();
  model.set("tokenizer.chat_template.tool_use", std::string("x"));
  model.set("tokenizer.chat_template.rag\n", std::string("y"));
  model.set("tokenizer.chat_templates", std::vector<std::string>{"tool_use"});
  EXPECT_EQ(facts_of(model).named_templates, (std::vector<std::string>{"tool_use", "rag?"}));
}

TEST(CheckTensors, ReadsEveryByte) {
  const TestFolder folder;
  const SmallModel model = make_small_model();
  const GgufFile file = GgufFile::open(folder.write("m.gguf", model.bytes()));
  uint64_t bytes = 0, calls = 0, last = 0, total = 0;
  for (const GgufTensor& tensor : file.tensors()) bytes += tensor.bytes;
  const CheckReport report = check_tensors(file, [&](uint64_t done, uint64_t all) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
    return ++calls > 0;
  });
  EXPECT_EQ(report.n_tensors, 20u);
  EXPECT_EQ(report.bytes_read, bytes);
  EXPECT_EQ(last, bytes);
  EXPECT_EQ(total, bytes);
  EXPECT_EQ(calls, 20u);
  EXPECT_TRUE(report.problems.empty());
}

TEST(CheckTensors, FindsWhatIsNotFinite) {
  const TestFolder folder;
  SmallModel model = make_small_model();
  std::vector<float>& values = model.tensor("blk.1.attn_q.weight").values;
  values[17] = INFINITY;
  values[18] = -INFINITY;
  values[900] = NAN;
  model.tensor("output_norm.weight").values[31] = NAN;
  const GgufFile file = GgufFile::open(folder.write("m.gguf", model.bytes()));
  const CheckReport report = check_tensors(file);
  ASSERT_EQ(report.problems.size(), 2u);
  EXPECT_EQ(report.problems[0].tensor, "output_norm.weight");
  EXPECT_EQ(report.problems[0].n_nan, 1u);
  EXPECT_EQ(report.problems[0].first_element, 31u);
  EXPECT_EQ(report.problems[1].tensor, "blk.1.attn_q.weight");
  EXPECT_EQ(report.problems[1].n_infinite, 2u);
  EXPECT_EQ(report.problems[1].n_nan, 1u);
  EXPECT_EQ(report.problems[1].first_element, 17u);
}

TEST(CheckTensors, FindsScalesThatAreNoNumberInLargeTensors) {
  // Two pieces of 2^18 elements and a tail; the bad scale is of the last block.
  constexpr uint64_t kElements = (uint64_t{2} << 18) + 64;
  std::vector<std::byte> bytes(tensor_row_bytes(TensorType::kQ4_0, kElements), std::byte{0x31});
  bytes[bytes.size() - 18] = std::byte{0x00};
  bytes[bytes.size() - 17] = std::byte{0x7c};  // f16 infinity
  GgufWriter writer;
  writer.add_tensor("t", TensorType::kQ4_0, {32, kElements / 32}, bytes);
  const TestFolder folder;
  const CheckReport report =
      check_tensors(GgufFile::open(folder.write("m.gguf", writer.serialise())));
  ASSERT_EQ(report.problems.size(), 1u);
  EXPECT_EQ(report.problems[0].first_element, kElements - 32);
  EXPECT_EQ(report.problems[0].n_nan + report.problems[0].n_infinite, 32u);
  EXPECT_EQ(report.bytes_read, bytes.size());
}

TEST(CheckTensors, StopsWhenAsked) {
  const TestFolder folder;
  const GgufFile file = GgufFile::open(folder.write("m.gguf", make_small_model().bytes()));
  uint64_t calls = 0;
  expect_error([&] { return check_tensors(file, [&](uint64_t, uint64_t) { return ++calls < 3; }); },
               ErrorCode::kCancelled, "the check was stopped", file.path());
  EXPECT_EQ(calls, 3u);
}

}  // namespace
}  // namespace strata::engine
