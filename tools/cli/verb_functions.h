// tools/cli/verb_functions.h - the verbs that verbs.cc lists, in source files of their names.
#pragma once

#include "tools/cli/command_line.h"

namespace strata::cli {

inline constexpr VerbSyntax kRunSyntax = {"run", kRun, ""};
inline constexpr VerbSyntax kChatSyntax = {"chat", kChat, ""};
inline constexpr VerbSyntax kServeSyntax = {"serve", kServe, ""};
inline constexpr VerbSyntax kInspectSyntax = {"inspect", kInspect, "model"};
inline constexpr VerbSyntax kBenchSyntax = {"bench", kBench, ""};
inline constexpr VerbSyntax kPlanSyntax = {"plan", kPlan, ""};
inline constexpr VerbSyntax kEvalSyntax = {"eval", kEval, ""};
inline constexpr VerbSyntax kDoctorSyntax = {"doctor", kDoctor, ""};
inline constexpr VerbSyntax kCalibrateSyntax = {"calibrate", kCalibrate, ""};
inline constexpr VerbSyntax kTokenizeSyntax = {"tokenize", kTokenize, ""};
inline constexpr VerbSyntax kSessionSaveSyntax = {"session save", kSessionSave, "session"};
inline constexpr VerbSyntax kSessionListSyntax = {"session list", kSessionList, ""};
inline constexpr VerbSyntax kSessionShowSyntax = {"session show", kSessionShow, "name"};
inline constexpr VerbSyntax kSessionRemoveSyntax = {"session rm", kSessionRemove, "name"};
inline constexpr VerbSyntax kSessionVerifySyntax = {"session verify", kSessionVerify, "name"};
inline constexpr VerbSyntax kCacheListSyntax = {"cache list", kCacheList, ""};
inline constexpr VerbSyntax kCacheRemoveSyntax = {"cache rm", kCacheRemove, "name"};
inline constexpr VerbSyntax kCompletionSyntax = {"completion", kCompletion, "shell"};
inline constexpr VerbSyntax kManSyntax = {"man", kMan, "verb"};

/// All of them, in the order of verbs(): for what reads options and runs nothing.
inline constexpr VerbSyntax kSyntaxes[] = {
    kRunSyntax,           kChatSyntax,        kServeSyntax,       kInspectSyntax,
    kTokenizeSyntax,      kBenchSyntax,       kPlanSyntax,        kSessionSaveSyntax,
    kEvalSyntax,          kSessionListSyntax, kSessionShowSyntax, kSessionRemoveSyntax,
    kSessionVerifySyntax, kCacheListSyntax,   kCacheRemoveSyntax, kDoctorSyntax,
    kCalibrateSyntax,     kCompletionSyntax,  kManSyntax};

/// Each returns the exit code. Errors are thrown.
int run_run(const Command& command);
int run_chat(const Command& command);
int run_serve(const Command& command);  // tools/serve/serve_verb.cc
int run_inspect(const Command& command);
int run_tokenize(const Command& command);
int run_bench(const Command& command);
int run_plan(const Command& command);
int run_session_save(const Command& command);
int run_eval(const Command& command);
int run_session_list(const Command& command);
int run_session_show(const Command& command);
int run_session_remove(const Command& command);
int run_session_verify(const Command& command);
int run_cache_list(const Command& command);
int run_cache_remove(const Command& command);
int run_doctor(const Command& command);
int run_calibrate(const Command& command);
int run_completion(const Command& command);
int run_man(const Command& command);

}  // namespace strata::cli
