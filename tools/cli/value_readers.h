// tools/cli/value_readers.h - option values as text, read strictly: the whole text or nothing, no
// sign where none makes sense, no wrapping. Every source (flag, environment, config file) goes
// through these, so all take the same spellings.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "index/choose.h"

namespace strata::cli {

/// Bytes: digits, at most six decimals, and a unit of any letter case. KiB MiB GiB TiB, and K M G T
/// alone, are powers of 1024 (as llama.cpp's users expect of `12G`); KB MB GB TB are powers of
/// 1000; no unit or B means bytes. "1.5GiB" is rounded down.
std::optional<uint64_t> read_size(std::string_view text);

/// A count: digits, then optionally k or M, which are 1024 and 1024 * 1024 ("32k" = 32768, as
/// contexts are counted).
std::optional<uint64_t> read_count(std::string_view text);

/// A whole number, perhaps negative.
std::optional<int64_t> read_integer(std::string_view text);

/// A finite decimal number.
std::optional<double> read_real(std::string_view text);

/// A time in ms: digits, perhaps with decimals, and one of ms, s, min, h. Without a unit it is
/// nothing: people mean seconds and milliseconds alike.
std::optional<double> read_duration_ms(std::string_view text);

/// true / false, on / off, yes / no, 1 / 0.
std::optional<bool> read_switch(std::string_view text);

/// What a selected step may attend: positions as read_count() takes them, a share of the context
/// with a percent sign, with a p a share of the attention weight, or with an n how many nats below
/// a query's largest weight a block may lie: "2048", "2%", "0.98p", "6n". Nothing of 0 or less, no
/// share above the whole.
std::optional<index::Budget> read_budget(std::string_view text);
/// As read_budget() takes it.
std::string budget_text(const index::Budget& budget);

/// Numbers of layers, or ranges of them, and what they attend: "0-1:dense,7:reuse,9:index". By
/// layer, up to the last that is named. No layer twice.
std::optional<std::vector<index::LayerMode>> read_layer_modes(std::string_view text);
/// As read_layer_modes() takes it; empty where the index chooses in every layer.
std::string layer_modes_text(std::span<const index::LayerMode> modes);

/// A share with a percent sign in [0, 100], or "0": "1.5%" is 0.015.
std::optional<double> read_share(std::string_view text);

/// TOKEN_ID, then a sign and a number or "inf", as llama.cpp spells it: "15043+1.5", "2-inf".
std::optional<std::pair<int32_t, double>> read_logit_bias(std::string_view text);

}  // namespace strata::cli
