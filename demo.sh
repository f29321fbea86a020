#!/usr/bin/env bash
# demo.sh - from a bare Debian 12 machine to an answer about a text of 5,600 tokens: installs the packages, builds the
# `strata` binary, fetches SmolLM2-135M-Instruct (94 MiB, Apache-2.0) and asks about examples/archive-log.txt.
#   ./demo.sh [QUESTION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# A model this small finds a fact that is asked for in the text's own words, and fails on most others; ask it yours.
question=${1:-What is the new access code of the north door?}
document=examples/archive-log.txt

step() { printf '\n== %s\n' "$*" >&2; }

step "1/4 packages (tools/packages.txt)"
tools/install_packages.sh build model

step "2/4 building strata (build/release)"
mkdir -p build
cmake --preset release -DSTRATA_TESTS=OFF > build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
cmake --build --preset release --target strata

step "3/4 the model"
model=$(tools/fetch_models.sh smollm2)
strata=build/release/tools/strata
"$strata" inspect "$model" >&2

step "4/4 $(wc -w < "$document") words of $document, then: $question"
echo "+ $strata run -m $model -f $document -p \"$question\" --temp 0" >&2
"$strata" run -m "$model" -f "$document" -p "$question" --temp 0
