// tools/cli/attention_profile.h - the verdicts of `eval --gate` on a model, kept for `--attn auto`.
// One TOML file per model, instruction set and RoPE: what engine/fingerprint.h tells apart.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tools/eval/gate.h"

namespace strata::cli {

/// FOLDER/<fingerprint>.toml.
std::string profile_path(const std::string& folder, const tiers::Hash128& model);

/// Replaces what was there, all at once. `date` is YYYY-MM-DD. Errors: kIo.
void write_profile(const std::string& path, std::span<const eval::Verdict> verdicts,
                   const std::string& date);

/// Nothing where there is no file. Errors: kIo, kBadFile (not TOML, or not what is written here).
std::optional<std::vector<eval::Verdict>> read_profile(const std::string& path);

/// What `--attn auto` means for the model that `options` names: sets method and budget where a
/// method has passed, else leaves attention exact; returns the line that says which and why. Reads
/// the model's head. Errors: those of GgufFile::open, read_model_spec, read_profile.
std::string choose_attention(const std::string& folder, engine::EngineOptions& options);

}  // namespace strata::cli
