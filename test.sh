#!/usr/bin/env bash
# test.sh - every check of this tree, from a bare Debian 12 machine (root or sudo): installs packages, builds, tests.
#   ./test.sh            every suite: release asan tsan fuzz golden
#   ./test.sh quick      the release suite only
#   ./test.sh SUITE...   those suites; also `kernels`, which takes too long for every change: the CPU's kernels, and
#                        what calls them, under the address sanitizer; after a change to them
# Each suite has a budget in minutes; a suite that exceeds it is stopped and counts as one failure. The last line is
# `N passed, N failed[, N skipped]`, the exit code 1 where anything failed. A skipped test is printed with its reason.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
readonly suites="release asan tsan fuzz golden"
# The budgets leave room for a machine of half the speed of the one in docs/measurements.md.
declare -A budget_minutes=([release]=40 [asan]=38 [tsan]=20 [fuzz]=16 [golden]=8 [kernels]=40)
readonly total_budget_minutes=86
# Suites under a sanitizer leave out what only repeats, at length, what the release suite has shown; of a card beside the
# CPU the emulated kernels of long texts.
# What of the emulated kernels shows races in seconds: a fiber of the emulator is a thread to the thread sanitizer.
readonly kernel_tests='BrokenRules|Emulat|Gpu_(copy|words|linear|embed)|Gpu_rows\.rotate|Gpu_scan.*group(3|16_2)|Gpu_prefill\.(q8_0|.*splits)|Gpu_attend\.(groups|merge)'
readonly clang_kernel_tests='BrokenRules|Emulat|Capture|Gpu_(copy|words|embed)|Gpu_scan.*group(3|16_2)|Gpu_rows\.rotate|Gpu_attend\.(groups|merge)'
readonly sanitizer_slow_tests='32K|FullLength|AThousand|DeviceBeside\.(TheEndOf|WhatRan|TwoTexts|TheCpuMayAttendAll)|DeviceSearch\.(Chooses|RowsOfAText|TextsThat|MeansOf)|DeviceSpill\.(Bits|Texts|WhatRan|Faults.*Beside)|DeviceSpillEngine\.(APlacement|AChunk|ChosenBlocks)|DeviceChosenSpill\.(Answers|Bits|ABudget|AnyOrder|ExactSteps)'
fuzz_seconds() { case $1 in gguf*) echo 40 ;; *) echo 20 ;; esac; }

results=build/test
jobs=$(nproc)
export CTEST_OUTPUT_ON_FAILURE=1
export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1  # what one checkout compiled holds for another
export STRATA_MODELS_DIR=${STRATA_MODELS_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/strata/models}

# count SUITE PASSED FAILED SKIPPED: adds to a suite's result.
count() { echo "$2 $3 $4" >> "$results/$1.counts"; }

# fail SUITE WHAT: one failure that no test framework counts.
fail() {
  echo "FAILED $1: $2" | tee -a "$results/$1.noted"
  count "$1" 0 1 0
}

build() {  # build SUITE PRESET TARGET...
  local suite=$1 preset=$2
  shift 2
  mkdir -p "build/$preset"
  if ! cmake --preset "$preset" > "build/$preset/configure.log" 2>&1; then
    cat "build/$preset/configure.log"
    fail "$suite" "configure"
    return 1
  fi
  if ! ninja -C "build/$preset" -j "$jobs" "$@"; then
    fail "$suite" "build"
    return 1
  fi
}

# The names of the test binaries, of those asked for, that this tree has.
test_targets() {
  local folder
  for folder in "$@"; do
    compgen -G "tests/$folder/*_test.cc" > /dev/null && echo "${folder}_test"
  done
}

# Counts a JUnit file of ctest, and notes each skipped test with the reason its GTEST_SKIP printed, each failed one with
# where it failed first: what GoogleTest says goes before what a sanitizer or a check printed earlier, which may be meant,
# and where a test said nothing, ctest's own word stands.
count_junit() {  # count_junit SUITE FILE
  local suite=$1 file=$2 n passed failed skipped
  [ -s "$file" ] || { fail "$suite" "ctest wrote no result"; return; }
  n=$(grep -c '<testcase ' "$file")
  [ "$n" -gt 0 ] || { fail "$suite" "no test was found"; return; }
  failed=$(grep -c '<failure' "$file")
  skipped=$(grep -c '<skipped' "$file")
  passed=$((n - failed - skipped))
  count "$suite" "$passed" "$failed" "$skipped"
  awk -v suite="$suite" '
    function note(what, otherwise) { print what, suite ": " name ": " (said == "" ? otherwise : said) }
    function attribute(key) { return match($0, key "=\"[^\"]*\"") ? substr($0, RSTART + length(key) + 2, RLENGTH - length(key) - 3) : "" }
    { text = $0; sub(/^[ \t]*<system-out>/, "", text); is_last = sub(/<\/system-out>.*/, "", text) }
    /<testcase / { name = attribute("name"); said = why = ended = ""; n_take = is_weak = 0 }
    /<skipped/ { ended = "skipped"; why = attribute("message"); if (why ~ /^SKIP_/) why = "" }
    /<failure/ { ended = "failed"; why = attribute("message") }
    n_take > 0 && text !~ /^[ \t]*$/ { said = said (said == "" ? "" : " | ") text; n_take-- }
    said == "" && text ~ /: Skipped$/ { n_take = 1 }
    (said == "" || is_weak) && text ~ /: Failure$/ { said = text; n_take = 5; is_weak = 0 }
    said == "" && text ~ /ERROR: [A-Za-z]+Sanitizer|runtime error:|check failed|terminate called/ { said = text; n_take = 5; is_weak = 1 }
    is_last { n_take = 0 }
    /<\/testcase>/ && ended == "skipped" { note("skipped", why == "" ? "no reason printed" : why) }
    /<\/testcase>/ && ended == "failed" { note("FAILED", why == "" ? "it ended without a word" : why) }
  ' "$file" | sed "s/&quot;/\"/g; s/&apos;/'/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g" >> "$results/$suite.noted"
}

run_ctest() {  # run_ctest SUITE PRESET CTEST_ARGUMENT...
  local suite=$1 preset=$2 file=$PWD/$results/$1.xml rc=0
  shift 2
  ctest --test-dir "build/$preset" -j "$jobs" --no-tests=ignore --output-junit "$file" \
    --test-output-size-passed 65536 --test-output-size-failed 65536 --progress "$@" || rc=$?
  count_junit "$suite" "$file"
  [ "$rc" -eq 0 ] || grep -q '<failure' "$file" || fail "$suite" "ctest ended with exit code $rc"
}

suite_release() { build release release && run_ctest release release -LE golden; }

suite_asan() {
  local targets
  mapfile -t targets < <(test_targets base tiers planner index engine gpu_emu gpu_attn gpu_module device)
  build asan asan "${targets[@]}" && run_addresses asan
}

suite_kernels() {
  local targets
  mapfile -t targets < <(test_targets cpu_attn index engine)
  build kernels kernels "${targets[@]}" && run_addresses kernels
}

run_addresses() {  # run_addresses PRESET
  # Not detect_stack_use_after_return: g++ 12 then places 64-byte vectors of a frame at 32 bytes, and their stores fault.
  ASAN_OPTIONS=detect_stack_use_after_return=0:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
    run_ctest "$1" "$1" -L unit -E "$sanitizer_slow_tests"
}

suite_tsan() {
  local targets without_aslr=()
  mapfile -t targets < <(test_targets base tiers index engine serve gpu_emu gpu_attn)
  build tsan tsan "${targets[@]}" || return
  # g++ 12's runtime refuses address layouts with more random bits than it knows; without randomisation it runs anywhere.
  setarch "$(uname -m)" -R true 2> /dev/null && without_aslr=(setarch "$(uname -m)" -R)
  ctest() { "${without_aslr[@]}" env ctest "$@"; }
  local options=halt_on_error=1:suppressions=$PWD/tests/tsan_suppressions.txt
  # tests/CMakeLists.txt lists the files of the label `threads`; of the kernels' folders a part is run.
  TSAN_OPTIONS=$options run_ctest tsan tsan -L threads -E "$sanitizer_slow_tests"
  TSAN_OPTIONS=$options run_ctest tsan tsan -L unit -R "$kernel_tests" -E "$sanitizer_slow_tests|PlantedBugs"
  run_ctest tsan tsan -L unit -R PlantedBugs  # whose races are meant, and go on
}

fuzz_one() {  # fuzz_one TARGET: bounded time, memory and input time; a crash leaves its input in build/fuzz/crashes
  local target=$1 corpus=build/fuzz/corpus/$1 arguments
  mkdir -p "$corpus" build/fuzz/crashes
  arguments=(-max_total_time="$(fuzz_seconds "$target")" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
    -artifact_prefix="build/fuzz/crashes/$target-")
  [ ! -f "tests/fuzz/$target.dict" ] || arguments+=("-dict=tests/fuzz/$target.dict")
  [ ! -d "tests/fuzz/seeds/$target" ] || arguments+=("$corpus" "tests/fuzz/seeds/$target")
  [ -d "tests/fuzz/seeds/$target" ] || arguments+=("$corpus")
  "build/fuzz/tests/$target" "${arguments[@]}" > "$results/$target.log" 2>&1
}

suite_fuzz() {
  local targets=() target
  for target in tests/fuzz/*_fuzz.cc; do
    [ -f "$target" ] && targets+=("$(basename "$target" .cc)")
  done
  [ ${#targets[@]} -gt 0 ] || return 0
  build fuzz fuzz "${targets[@]}" gpu_emu_test gpu_attn_test || return
  # The emulator and a part of the kernels by clang as well, whose runtime wants to be told of binutils' addr2line.
  local symbolizer
  symbolizer=external_symbolizer_path=$(command -v addr2line)
  ASAN_OPTIONS=detect_stack_use_after_return=0:strict_string_checks=1:$symbolizer UBSAN_OPTIONS=print_stacktrace=1:$symbolizer \
    run_ctest fuzz fuzz -L unit -R "PlantedBugs|$clang_kernel_tests" -E "$sanitizer_slow_tests"
  printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} "$0" fuzz-one {}
  for target in "${targets[@]}"; do
    if [ -f "$results/$target.passed" ]; then
      count fuzz 1 0 0
      awk -v name="$target" '/number_of_executed_units/ { print name ": " $2 " inputs, no finding" }' "$results/$target.log"
    else
      tail -n 40 "$results/$target.log"
      fail fuzz "$target"
    fi
  done
}

suite_golden() {
  [ -n "$(test_targets golden)" ] || return 0
  tools/fetch_models.sh all > /dev/null || echo "A model could not be had: its tests are skipped."
  build golden release golden_test strata && run_ctest golden release -L golden
}

# run_suite SUITE: in a process group of its own, stopped at its budget. Prints nothing but what the suite prints.
run_suite() {
  local suite=$1 start=$SECONDS rc
  rm -f "$results/$suite".{counts,noted,xml}
  printf '\n==== %s\n' "$suite"
  timeout --kill-after=20 "${budget_minutes[$suite]}m" "$0" inside "$suite" < /dev/null &
  running=$!
  wait "$running"
  rc=$?
  running=
  seconds[$suite]=$((SECONDS - start))
  case $rc in
    0) ;;
    124 | 137) fail "$suite" "its budget of ${budget_minutes[$suite]} minutes" ;;
    *) fail "$suite" "ended with exit code $rc" ;;
  esac
}

report() {  # report SUITE...: the table, skipped and failed tests, the last line
  local suite passed=0 failed=0 skipped=0 p f s total=0
  printf '\n%-10s %8s %7s %7s %7s %8s\n' suite minutes budget passed failed skipped
  for suite in "$@"; do
    read -r p f s < <(awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$results/$suite.counts" 2> /dev/null || echo 0 0 0)
    printf '%-10s %8s %7s %7s %7s %8s\n' "$suite" "$(awk -v s="${seconds[$suite]}" 'BEGIN { printf "%.1f", s / 60 }')" \
      "${budget_minutes[$suite]}" "$p" "$f" "$s"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s)) total=$((total + seconds[$suite]))
  done
  if [ "$total" -gt $((total_budget_minutes * 60)) ]; then
    echo "FAILED: all suites together took $((total / 60)) minutes, their budget is $total_budget_minutes"
    failed=$((failed + 1))
  fi
  for suite in "$@"; do cat "$results/$suite.noted" 2> /dev/null; done | sort -r  # each by name: nothing is left out silently
  if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
  else
    echo "$passed passed, $failed failed"
  fi
  [ "$failed" -eq 0 ]
}

main() {
  local chosen suite running=
  case ${1:-all} in
    all) read -ra chosen <<< "$suites" ;;
    quick) chosen=(release) ;;
    *) chosen=("$@") ;;
  esac
  for suite in "${chosen[@]}"; do
    [ -n "${budget_minutes[$suite]:-}" ] || { echo "usage: ./test.sh [quick | SUITE...]   suites: $suites kernels" >&2; exit 2; }
  done
  tools/install_packages.sh build model test || { echo "0 passed, 1 failed"; exit 1; }
  mkdir -p "$results"
  declare -gA seconds
  trap '[ -z "$running" ] || kill -TERM "$running"; exit 130' INT TERM
  for suite in "${chosen[@]}"; do run_suite "$suite"; done
  report "${chosen[@]}"
}

case ${1:-} in
  inside) "suite_$2" || true ;;
  fuzz-one)
    rm -f "$results/$2.passed"
    if fuzz_one "$2"; then touch "$results/$2.passed"; fi
    ;;
  *) main "$@" ;;
esac
