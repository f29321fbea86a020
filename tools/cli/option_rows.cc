// The rows. Names and defaults are llama.cpp's wherever it has the option, because people already
// type them.
#include <cfloat>
#include <cstdint>

#include "tools/cli/option_table.h"

namespace strata::cli {
namespace {

using S = Settings;
constexpr double kMaxTokens = 2147483647;  // positions are 32-bit
constexpr double kMaxBytes = 1ull << 46;   // 64 TiB: more than any host here holds
constexpr double kNoMin = -DBL_MAX;

constexpr OptionSpec kRows[] = {
    {"model", "-m", Section::kModel, ValueKind::kText, "", 0, 0, "FILE",
     "GGUF model file, or the first of its shards", Sources::kEverywhere,
     kGenerating | kInspect | kTokenize, &S::model},
    {"ctx-size", "-c", Section::kModel, ValueKind::kCount, "0", 0, kMaxTokens, "N",
     "context in tokens (32k = 32768); 0 = the model's, or what half of the free memory holds",
     Sources::kEverywhere, kGenerating, &S::ctx_size},
    {"threads", "-t", Section::kModel, ValueKind::kCount, "0", 0, 1024, "N",
     "CPU threads; 0 = every CPU this process may use", Sources::kEverywhere, kGenerating,
     &S::threads},
    {"cache-type-k", "-ctk", Section::kModel, ValueKind::kChoice, "f16", 0, 0, "f16|q8_0",
     "how K is stored", Sources::kEverywhere, kGenerating, &S::cache_type_k},
    {"cache-type-v", "-ctv", Section::kModel, ValueKind::kChoice, "f16", 0, 0, "f16|q8_0",
     "how V is stored", Sources::kEverywhere, kGenerating, &S::cache_type_v},
    {"kv-dram", "", Section::kModel, ValueKind::kSize, "0", 0, kMaxBytes, "SIZE",
     "most memory for K and V, such as 1.5GiB; 0 = what the context needs", Sources::kEverywhere,
     kGenerating, &S::kv_dram},
    {"batch-size", "-b", Section::kModel, ValueKind::kCount, "512", 1, 8192, "N",
     "prompt tokens read in one step", Sources::kEverywhere, kGenerating, &S::batch_size},
    {"cpu-isa", "", Section::kModel, ValueKind::kText, "", 0, 0, "NAME",
     "force an instruction set: scalar, avx2, avx512; empty = the widest here",
     Sources::kEverywhere, kGenerating, &S::cpu_isa},
    {"allow-untrained", "", Section::kModel, ValueKind::kFlag, "false", 0, 0, "",
     "let -c exceed the context the model was trained for", Sources::kEverywhere, kGenerating,
     &S::allow_untrained},

    {"rope-scaling", "", Section::kRope, ValueKind::kChoice, "", 0, 0, "none|linear|yarn",
     "RoPE scaling instead of the model's own", Sources::kEverywhere, kGenerating,
     &S::rope_scaling},
    {"rope-freq-base", "", Section::kRope, ValueKind::kReal, "0", 0, 1e12, "X",
     "RoPE base frequency; 0 = the model's", Sources::kEverywhere, kGenerating, &S::rope_freq_base},
    {"rope-factor", "--rope-scale", Section::kRope, ValueKind::kReal, "0", 0, 1e6, "X",
     "how many times the context is extended; 0 = the model's", Sources::kEverywhere, kGenerating,
     &S::rope_factor},
    {"yarn-orig-ctx", "", Section::kRope, ValueKind::kCount, "0", 0, kMaxTokens, "N",
     "context before scaling; 0 = the model's", Sources::kEverywhere, kGenerating,
     &S::yarn_orig_ctx},
    {"yarn-ext-factor", "", Section::kRope, ValueKind::kReal, "-1", -1, 1e6, "X",
     "YaRN extrapolation mix; -1 = the model's", Sources::kEverywhere, kGenerating,
     &S::yarn_ext_factor},
    {"yarn-attn-factor", "", Section::kRope, ValueKind::kReal, "-1", -1, 1e6, "X",
     "YaRN attention scale; -1 = the model's", Sources::kEverywhere, kGenerating,
     &S::yarn_attn_factor},
    {"yarn-beta-fast", "", Section::kRope, ValueKind::kReal, "-1", -1, 1e6, "X",
     "YaRN low correction dimension; -1 = the model's", Sources::kEverywhere, kGenerating,
     &S::yarn_beta_fast},
    {"yarn-beta-slow", "", Section::kRope, ValueKind::kReal, "-1", -1, 1e6, "X",
     "YaRN high correction dimension; -1 = the model's", Sources::kEverywhere, kGenerating,
     &S::yarn_beta_slow},

    {"prompt", "-p", Section::kPrompt, ValueKind::kText, "", 0, 0, "TEXT",
     "the question; stands after the document where there is one", Sources::kNotInConfig,
     kRun | kTokenize, &S::prompt},
    {"file", "-f", Section::kPrompt, ValueKind::kTextList, "", 0, 0, "FILE",
     "a document to read first; may be repeated; - is standard input", Sources::kNotInConfig,
     kRun | kTokenize, &S::file},
    {"system", "-s", Section::kPrompt, ValueKind::kText, "", 0, 0, "TEXT",
     "system prompt, where the model's template has one", Sources::kEverywhere, kGenerating,
     &S::system},
    {"raw", "", Section::kPrompt, ValueKind::kFlag, "false", 0, 0, "",
     "feed the text as it is: no chat template, and special tokens written in it count", Sources::kEverywhere, kRun, &S::raw},
    {"predict", "-n", Section::kPrompt, ValueKind::kInteger, "-1", -1, kMaxTokens, "N",
     "most tokens to answer with; -1 = until the model stops or the context is full",
     Sources::kEverywhere, kGenerating, &S::predict},
    {"stop", "", Section::kPrompt, ValueKind::kTextList, "", 0, 0, "TEXT",
     "stop where the answer contains this text; may be repeated", Sources::kEverywhere, kGenerating,
     &S::stop},
    {"ignore-eos", "", Section::kPrompt, ValueKind::kFlag, "false", 0, 0, "",
     "never let the model end its answer", Sources::kEverywhere, kGenerating, &S::ignore_eos},

    {"seed", "", Section::kSampling, ValueKind::kInteger, "-1", -1, 4294967295.0, "N",
     "seed of the sampler; -1 = a drawn one, shown at the end", Sources::kEverywhere, kGenerating,
     &S::seed},
    {"temp", "--temperature", Section::kSampling, ValueKind::kReal, "0.8", kNoMin, 1000, "X",
     "temperature; 0 = always the likeliest token", Sources::kEverywhere, kGenerating, &S::temp},
    {"top-k", "", Section::kSampling, ValueKind::kCount, "40", 0, kMaxTokens, "N",
     "sample from the k likeliest; 0 = off", Sources::kEverywhere, kGenerating, &S::top_k},
    {"top-p", "", Section::kSampling, ValueKind::kReal, "0.95", 0, 1, "X",
     "sample from the likeliest with this share together; 1 = off", Sources::kEverywhere,
     kGenerating, &S::top_p},
    {"min-p", "", Section::kSampling, ValueKind::kReal, "0.05", 0, 1, "X",
     "drop tokens less likely than this share of the likeliest; 0 = off", Sources::kEverywhere,
     kGenerating, &S::min_p},
    {"repeat-penalty", "", Section::kSampling, ValueKind::kReal, "1", 0.01, 100, "X",
     "penalty of recent tokens; 1 = off", Sources::kEverywhere, kGenerating, &S::repeat_penalty},
    {"repeat-last-n", "", Section::kSampling, ValueKind::kCount, "64", 0, 1048576, "N",
     "tokens the penalties look back over", Sources::kEverywhere, kGenerating, &S::repeat_last_n},
    {"presence-penalty", "", Section::kSampling, ValueKind::kReal, "0", -100, 100, "X",
     "penalty of tokens that have occurred", Sources::kEverywhere, kGenerating,
     &S::presence_penalty},
    {"frequency-penalty", "", Section::kSampling, ValueKind::kReal, "0", -100, 100, "X",
     "penalty per occurrence", Sources::kEverywhere, kGenerating, &S::frequency_penalty},
    {"logit-bias", "", Section::kSampling, ValueKind::kTextList, "", 0, 0, "ID(+|-)X",
     "make a token likelier or less so: 15043+1, 2-inf; may be repeated", Sources::kEverywhere,
     kGenerating, &S::logit_bias},

    {"json", "", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "",
     "one JSON object on standard output, errors too", Sources::kEverywhere, kEveryVerb, &S::json},
    {"output", "-o", Section::kOutput, ValueKind::kText, "", 0, 0, "FILE",
     "write the answer to a file instead of standard output", Sources::kNotInConfig,
     kRun | kInspect | kTokenize, &S::output},
    {"ids", "", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "",
     "print the token ids on one line", Sources::kFlagOnly, kTokenize, &S::ids},
    {"special", "", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "",
     "let texts like <|im_start|> be special tokens", Sources::kFlagOnly, kTokenize, &S::special},
    {"check", "", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "",
     "also check every tensor and the tokenizer", Sources::kFlagOnly, kInspect, &S::check},
    {"verbose", "-v", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "",
     "say more on standard error: threads, kernels, memory, the rendered prompt",
     Sources::kEverywhere, kEveryVerb, &S::verbose},
    {"config", "", Section::kOutput, ValueKind::kText, "", 0, 0, "FILE",
     "config file; without it ~/.config/strata/config.toml where present", Sources::kNotInConfig,
     kEveryVerb, &S::config},
    {"help", "-h", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "", "print this text",
     Sources::kFlagOnly, kEveryVerb, &S::help},
    {"version", "", Section::kOutput, ValueKind::kFlag, "false", 0, 0, "", "print the version",
     Sources::kFlagOnly, kEveryVerb, &S::version},
};

}  // namespace

std::span<const OptionSpec> option_table() { return kRows; }

}  // namespace strata::cli
