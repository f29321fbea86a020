// The verbs of the program, in the order of `strata --help`.
#include "tools/cli/program.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

constexpr Verb kVerbs[] = {
    {kRunSyntax, "answer one prompt", "run -m MODEL.gguf [-f DOCUMENT] [-p QUESTION] [options]",
     run_run},
    {kChatSyntax, "hold a conversation", "chat -m MODEL.gguf [options]", run_chat},
    {kInspectSyntax, "show what a model file holds", "inspect MODEL.gguf [--json] [--check]",
     run_inspect},
    {kTokenizeSyntax, "turn text into token ids",
     "tokenize -m MODEL.gguf [-p TEXT] [-f FILE] [--ids|--json]", run_tokenize},
    {kBenchSyntax, "measure reading and decoding, as llama-bench does",
     "bench -m MODEL.gguf [-p 512,4096] [-n 128] [-d 0,8192] [-r 5]", run_bench},
};

}  // namespace

std::span<const Verb> verbs() { return kVerbs; }

}  // namespace strata::cli
