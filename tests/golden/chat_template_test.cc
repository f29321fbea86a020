// The chat templates inside the two real model files; what they give was written down from real
// Jinja2 (tools/template_expectations.py's environment).
#include "engine/template/chat_template.h"

#include <gtest/gtest.h>

#include "engine/gguf/gguf_file.h"
#include "tests/golden/golden_models.h"

namespace strata::engine {
namespace {

TEST(RealTemplate, SmolLm2RendersAsJinja2Does) {
  STRATA_GOLDEN_MODEL(path, golden::kSmolLm2);
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
  STRATA_GOLDEN_MODEL(path, golden::kGemma3);
  EXPECT_FALSE(GgufFile::open(path).get_string("tokenizer.chat_template"));
}

}  // namespace
}  // namespace strata::engine
