// The verbs of the program, in the order of `strata --help`.
#include <algorithm>

#include "tools/cli/program.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

constexpr Verb kVerbs[] = {
    {kRunSyntax, "answer one prompt", "run -m MODEL.gguf [-f DOCUMENT] [-p QUESTION] [options]",
     run_run},
    {kChatSyntax, "hold a conversation", "chat -m MODEL.gguf [options]", run_chat},
    {kServeSyntax, "answer over HTTP, and show a page to chat on",
     "serve -m MODEL.gguf [--port 8080] [--parallel N] [--api-key-file FILE] [options]", run_serve},
    {kInspectSyntax, "show what a model file holds", "inspect MODEL.gguf [--json] [--check]",
     run_inspect},
    {kTokenizeSyntax, "turn text into token ids",
     "tokenize -m MODEL.gguf [-p TEXT] [-f FILE] [--ids|--json]", run_tokenize},
    {kBenchSyntax, "measure reading and decoding, as llama-bench does",
     "bench -m MODEL.gguf [-p 512,4096] [-n 128] [-d 0,8192] [-r 5]", run_bench},
    {kPlanSyntax, "say what would live where, how fast that is and what limits it",
     "plan -m MODEL.gguf [-c N] [--device none|virtual:NAME] [--dram SIZE] [--explain] [--json]",
     run_plan},
    {kSessionSaveSyntax, "read a text and save it under a name",
     "session save NAME -m MODEL.gguf [-f DOCUMENT] [-p TEXT] [options]", run_session_save},
    {kEvalSyntax, "judge approximate attention against exact attention",
     "eval -m MODEL.gguf -f TEXT [-f TEXT] [--attn quest,oracle] [--kv-budget 1024,5%]", run_eval},
    {kSessionListSyntax, "list the saved sessions", "session list [--json]", run_session_list},
    {kSessionShowSyntax, "show what a saved session holds", "session show NAME [--json]",
     run_session_show},
    {kSessionRemoveSyntax, "remove sessions and what only they keep",
     "session rm NAME...|--all [--json]", run_session_remove},
    {kSessionVerifySyntax, "read and check every saved block",
     "session verify [NAME] [--json]   (exit code 4 where something is damaged)",
     run_session_verify},
    {kCacheListSyntax, "list the saved contexts and the space they take", "cache list [--json]",
     run_cache_list},
    {kCacheRemoveSyntax, "remove saved contexts that no session keeps",
     "cache rm PACK...|--all [--json]   (PACK: the beginning of a name in `strata cache list`)",
     run_cache_remove},
    {kDoctorSyntax, "show what this machine can do, and what is missing",
     "doctor [-m MODEL.gguf] [--nvme DIR] [--json]   (exit code 1 where Strata cannot run)",
     run_doctor},
    {kCalibrateSyntax, "measure this machine, for plans",
     "calibrate [-m MODEL.gguf] [--nvme DIR|off] [--show] [--json]", run_calibrate},
    {kCompletionSyntax, "print a shell's completions of verbs and options",
     "completion bash|zsh|fish", run_completion},
    {kManSyntax, "print a manual page", "man [VERB] [--pages DIR]   (strata man run | man -l -)",
     run_man},
};

constexpr bool has_every_syntax() {
  return std::ranges::equal(
      kVerbs, kSyntaxes, {}, [](const Verb& verb) { return verb.syntax.name; }, &VerbSyntax::name);
}
static_assert(has_every_syntax());

}  // namespace

std::span<const Verb> verbs() { return kVerbs; }

}  // namespace strata::cli
