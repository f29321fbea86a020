#!/usr/bin/env bash
# demo.sh - from a bare Debian 12 machine to an answer about a text of 5,600 tokens: installs the packages, builds the
# `strata` binary, fetches SmolLM2-135M-Instruct (94 MiB, Apache-2.0) and asks about examples/archive-log.txt, with so little
# memory that its K and V spill to disk; then a second question, from what the first run has saved. Before them, what this
# machine can do and where a plan would put a context four times as long.
#   ./demo.sh [QUESTION [SECOND_QUESTION]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# A model this small finds a fact that is asked for in the text's own words, and fails on most others; ask it yours.
question=${1:-What is the new access code of the north door?}
second_question=${2:-What is the new access code?}
document=examples/archive-log.txt

step() { printf '\n== %s\n' "$*" >&2; }

step "1/6 packages (tools/packages.txt)"
tools/install_packages.sh build model

step "2/6 building strata (build/release)"
mkdir -p build
cmake --preset release -DSTRATA_TESTS=OFF > build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
cmake --build --preset release --target strata

step "3/6 the model"
model=$(tools/fetch_models.sh smollm2)
strata=build/release/tools/strata
"$strata" inspect "$model" >&2

step "4/6 what this machine can do, and where 32k tokens would live in 400 MiB of memory"
"$strata" doctor -m "$model" >&2
"$strata" plan -m "$model" -c 32k --dram 400MiB --explain >&2

contexts=build/demo-contexts
rm -rf "$contexts"
options=(-m "$model" -f "$document" --kv-dram 60MiB --session-dir "$contexts" --session archive-log)

ask() {  # ask QUESTION: prints the command, runs it, sets `seconds`
  local begin=$EPOCHREALTIME
  echo "+ $strata run ${options[*]} --temp 0 -p \"$1\"" >&2
  "$strata" run "${options[@]}" --temp 0 -p "$1"
  seconds=$(awk -v from="$begin" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }')
}

step "5/6 $(wc -w < "$document") words of $document, with 60 MiB of memory for K and V: the rest goes to disk"
ask "$question"
first=$seconds

step "6/6 another question about the same text: what was read is found again"
ask "$second_question"
printf '\nThe first question took %s s, the second %s s, because the text was read already.\n' "$first" "$seconds" >&2
echo "What is kept of it, in $contexts:" >&2
"$strata" session list --session-dir "$contexts" >&2
