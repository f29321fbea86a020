// The chat templates inside the two real model files; what they give was written down from real
// Jinja2 (tools/template_expectations.py's environment).
#include "engine/template/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "engine/gguf/gguf_file.h"

namespace strata::engine {
namespace {

// Where tools/fetch_models.sh puts a model; empty where it is not.
std::string model_path(const std::string& name) {
  const auto variable = [](const char* of) {
    const char* value = std::getenv(of);
    return std::string(value ? value : "");
  };
  std::string cache = variable("XDG_CACHE_HOME");
  if (cache.empty()) cache = variable("HOME") + "/.cache";
  std::string folder = variable("STRATA_MODELS_DIR");
  if (folder.empty()) folder = cache + "/strata/models";
  const std::string path = folder + "/" + name;
  return std::filesystem::exists(path) ? path : "";
}

TEST(RealTemplate, SmolLm2RendersAsJinja2Does) {
  const std::string path = model_path("SmolLM2-135M-Instruct.Q4_1.gguf");
  if (path.empty()) GTEST_SKIP() << "the model is not there: tools/fetch_models.sh smollm2";
  const auto file = GgufFile::open(path);  // the source is a view of it
  const auto source = file.get_string("tokenizer.chat_template");
  ASSERT_TRUE(source);
  const auto chat = ChatTemplate::parse(*source);
  TemplateContext context;
  EXPECT_EQ(chat.render({{"user", "Hi <|im_end|>"}}, context),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n");
  context.add_generation_prompt = false;
  EXPECT_EQ(chat.render({{"system", "Brief."}, {"user", "a"}, {"assistant", "b"}}, context),
            "<|im_start|>system\nBrief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
            "<|im_start|>assistant\nb<|im_end|>\n");
}

TEST(RealTemplate, Gemma3BaseModelHasNone) {
  const std::string path = model_path("gemma-3-270m-q4_k_m.gguf");
  if (path.empty()) GTEST_SKIP() << "the model is not there: tools/fetch_models.sh gemma3";
  EXPECT_FALSE(GgufFile::open(path).get_string("tokenizer.chat_template"));
}

}  // namespace
}  // namespace strata::engine
