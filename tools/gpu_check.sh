#!/usr/bin/env bash
# tools/gpu_check.sh [--limit SECONDS] [STAGE...] - every check that wants a CUDA card, on a machine that has one, from a
# bare checkout: builds with CMake, ninja and nvcc alone, judges the kernels, looks for races, times them. No setting of
# the card is touched. A stage that fails or takes too long costs itself only; a table of all stages comes last.
# tools/gpu_check.sh --dry-run PROGRAM ... - the same on the emulator (gpu_check_emulated) and without a card, so that a
# slip in this script shows before a card's time is spent.
#
# Stages: facts build cases model bench peers memcheck racecheck synccheck. Logs and the table go to $OUT, else
# build/gpu_check; the build is build/gpu. The exit code is 1 where a stage failed.
set -uo pipefail

readonly all_stages="facts build cases model bench peers memcheck racecheck synccheck"
declare -Ar seconds_max=([facts]=30 [build]=240 [cases]=120 [model]=70 [bench]=150 [peers]=30 [memcheck]=70 [racecheck]=80
  [synccheck]=50)
readonly tail_s=5  # for the table

# Everything a stage needs to know; a stage is this script again, under timeout.
export GPU_CHECK_DRY=${GPU_CHECK_DRY:-no}
export GPU_CHECK_PROGRAM=${GPU_CHECK_PROGRAM:-build/gpu/gpu_check}
export GPU_CHECK_LEFT=${GPU_CHECK_LEFT:-60}  # seconds of this stage
export OUT=${OUT:-}
self=$(realpath "${BASH_SOURCE[0]}")
root=$(dirname "$self")/..

left() { echo $((GPU_CHECK_LEFT - SECONDS)); }

# The subjects that have "cases" or "bench". A dry run leaves out what takes the emulator long.
subjects_with() {
  local listed
  listed=$("$GPU_CHECK_PROGRAM" --list) || return
  [ "$GPU_CHECK_DRY" = no ] || listed=$(grep -E '^(copy|words|scan|rows|attend|link|linear|model) ' <<< "$listed" | grep -vE '(attend|linear) cases')
  sed -n "s/ $1\$//p" <<< "$listed"
}

stage_facts() {
  if command -v nvidia-smi > /dev/null; then
    nvidia-smi --format=csv --query-gpu=name,driver_version,compute_cap,memory.total,memory.used,clocks.max.sm,clocks.max.mem,pcie.link.gen.max,pcie.link.width.max,power.limit
  else
    echo "there is no nvidia-smi"
    [ "$GPU_CHECK_DRY" = yes ] || return 1
  fi
  echo "kernel $(uname -r), $(nproc) CPUs, $(awk '/MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo) GiB of memory"
  grep -m1 'model name' /proc/cpuinfo || true
  echo "limit of locked memory: $(ulimit -l) KiB"
  cmake --version | head -1
  echo "ninja $(ninja --version)"
  nvcc --version 2> /dev/null | grep release || echo "there is no nvcc"
}

# The card's architecture as nvcc names it: "90" of 9.0.
architecture() {
  local capability=
  capability=$(nvidia-smi --format=csv,noheader --query-gpu=compute_cap 2> /dev/null | head -1 | tr -d '. ')
  echo "${capability:-90}"
}

stage_build() {
  local arguments=(-S tools/gpu -B build/gpu -G Ninja -D STRATA_CUDA_ARCHITECTURES="$(architecture)-real")
  if [ "$GPU_CHECK_DRY" = no ]; then
    cmake "${arguments[@]}" && ninja -C build/gpu -k 0 -j "$(nproc)"
    return
  fi
  # The main build compiles and links the same files.
  command -v nvcc > /dev/null || { echo "there is no nvcc: not configured"; return 0; }
  arguments[3]=$OUT/build
  cmake "${arguments[@]}" && ninja -C "$OUT/build" -n
}

# run_cases SUBJECT SECONDS [WRAPPER...]: all cases, going on behind one that hangs, crashes or loses the card.
run_cases() {
  local subject=$1 end=$((SECONDS + $2)) after=0 failed=0 rc try stopped arguments
  shift 2
  for try in 1 2 3 4 5 6 7 8; do
    [ "$((end - SECONDS))" -ge 2 ] || { echo "FAIL $subject: no time for cases after number $after"; return 1; }
    arguments=(--cases --only "$subject" --after "$after" --seconds "$((end - SECONDS))")
    [ $# -eq 0 ] || arguments+=(--small --case-seconds 60)
    [ "$GPU_CHECK_DRY" = no ] || arguments+=(--small --case-seconds 600)
    "$@" "$GPU_CHECK_PROGRAM" "${arguments[@]}" > "$OUT/one.log" 2>&1
    rc=$?
    cat "$OUT/one.log"
    [ "$rc" -eq 0 ] || failed=1
    stopped=$(sed -n 's/^stopped at //p' "$OUT/one.log" | tail -1)
    [ "${stopped:-0}" -gt "$after" ] || break
    after=$stopped
    echo "(going on, try $((try + 1)))"
  done
  [ "$rc" -le 5 ] || echo "FAIL $subject: ended with exit code $rc"
  return "$failed"
}

# Each of the subjects gets an equal part of the time that is left.
each_subject() {  # each_subject NAMES COMMAND...: COMMAND SUBJECT SECONDS ARGUMENTS
  local names=$1 command=$2 name n failed=0
  shift 2
  [ -n "$names" ] || { echo "FAIL $GPU_CHECK_PROGRAM names no subjects"; return 1; }
  n=$(wc -l <<< "$names")
  for name in $names; do
    "$command" "$name" "$(($(left) / n))" "$@" || failed=1
    n=$((n - 1))
  done
  return "$failed"
}

# Those that the host judges slowly come last: they get the time that the others leave.
subjects_to_judge() {
  local names
  names=$(subjects_with cases) || return
  grep -vxE 'attend|prefill' <<< "$names"
  grep -xE 'attend|prefill' <<< "$names" | sort -r
}

stage_cases() {
  "$GPU_CHECK_PROGRAM" --facts
  each_subject "$(subjects_to_judge)" run_cases
}

run_bench() {
  local arguments=(--bench --only "$1" --seconds "$2")
  [ "$GPU_CHECK_DRY" = no ] || arguments+=(--small)
  "$GPU_CHECK_PROGRAM" "${arguments[@]}" 2>&1
}

# Whole steps of a model have a stage of their own.
stage_bench() { each_subject "$(subjects_with bench | grep -vx model)" run_bench; }
stage_model() { run_bench model "$(left)"; }

# What others reach on the same card.
stage_peers() {
  command -v python3 > /dev/null || { echo "there is no python3: skipped"; return 77; }
  if [ "$GPU_CHECK_DRY" = yes ]; then
    python3 -c 'import ast; ast.parse(open("tools/gpu/flash_attention.py").read())' || return 1
    echo "there is no card in a dry run: skipped"
    return 77
  fi
  python3 tools/gpu/flash_attention.py 2>&1
}

# sanitize TOOL: small cases under compute-sanitizer. A dry run's tool is one that finds nothing.
sanitize() {
  local tool names
  names=$(subjects_to_judge)
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
  if [ "$GPU_CHECK_DRY" = yes ]; then
    tool=$OUT/sanitizer
    printf '%s\n' '#!/usr/bin/env bash' "while [[ \$1 = --* ]]; do shift 2; done" "\"\$@\"" 'rc=$?' \
      'echo "========= ERROR SUMMARY: 0 errors"' "exit \$rc" > "$tool"
    chmod +x "$tool"
    names=$(head -n 2 <<< "$names")
  fi
  [ -n "$tool" ] || { echo "there is no compute-sanitizer: skipped"; return 77; }
  each_subject "$names" run_cases "$tool" --tool "$1" --error-exitcode 9 --print-limit 20
}

stage_memcheck() { sanitize memcheck; }
stage_racecheck() { sanitize racecheck; }
stage_synccheck() { sanitize synccheck; }

# note STAGE: what the table says of a stage, from its log.
note() {
  local log=$OUT/$1.log
  case $1 in
    facts) grep -m1 -A1 '^name,' "$log" | tail -1 ;;
    build) grep -cE '(warning|error)[: ]' "$log" | sed 's/$/ lines with warnings or errors/' ;;
    bench | model) grep -c '^| [^|]* | [0-9]' "$log" | sed 's/$/ rows/' ;;
    peers) grep -q '^| [^|]* | [0-9]' "$log" && grep -c '^| [^|]* | [0-9]' "$log" | sed 's/$/ rows/' || tail -n 1 "$log" ;;
    *)
      awk '/^cases / { run += $3; failed += $5 } /SUMMARY/ { summaries[$0] = 1 }
        END { printf "%d cases, %d failed", run, failed; for (s in summaries) printf "; %s", substr(s, 11) }' "$log"
      ;;
  esac
}

run_stage() {
  local stage=$1 begin=$SECONDS rc verdict most=${seconds_max[$1]}
  local remaining=$((limit - tail_s - SECONDS))
  [ "$GPU_CHECK_DRY" = no ] || most=$remaining
  [ "$remaining" -ge "$most" ] || most=$remaining
  if [ "$most" -lt 3 ]; then
    echo "$stage | not run | 0 | the time is over" >> "$OUT/stages"
    failed=1
    return
  fi
  GPU_CHECK_LEFT=$((most - 2)) timeout --kill-after=5 "$most" bash "$self" inside "$stage" > "$OUT/$stage.log" 2>&1 < /dev/null
  rc=$?
  case $rc in
    0) verdict=good ;;
    77) verdict=skipped ;;
    124 | 137) verdict="FAILED: $most s are over" ;;
    *) verdict="FAILED: exit code $rc" ;;
  esac
  [ "$rc" -eq 0 ] || [ "$rc" -eq 77 ] || failed=1
  echo "$stage | $verdict | $((SECONDS - begin)) | $(note "$stage")" >> "$OUT/stages"
  echo "$stage: $verdict, $((SECONDS - begin)) s"
  [[ $verdict != FAILED* ]] || grep -vE '^\[|^\|' "$OUT/$stage.log" | tail -n 12 | cut -c1-240 | sed 's/^/    /'
}

# The table: stages, then subjects, failures and benches.
report() {
  {
    echo
    echo "| stage | verdict | s | note |"
    echo "|---|---|---:|---|"
    sed 's/^/| /; s/$/ |/' "$OUT/stages"
    echo
    grep -h '^device ' "$OUT/cases.log" 2> /dev/null
    for log in cases memcheck racecheck synccheck; do
      [ ! -s "$OUT/$log.log" ] || grep -hE '^(cases|FAIL) ' "$OUT/$log.log" | cut -c1-200 | sed "s/^/$log: /" | head -n 40
    done
    for log in model bench peers; do
      [ ! -s "$OUT/$log.log" ] || grep -hE '^(\||ceilings|FAIL |PyTorch )' "$OUT/$log.log"
    done | awk '!/^\|(---| bench )/ || !seen[$0]++'
  } > "$OUT/table.md"
  cat "$OUT/table.md"
}

main() {
  local chosen=() stage
  limit=
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) GPU_CHECK_DRY=yes GPU_CHECK_PROGRAM=$(realpath "${2:?the emulated program is missing}") && shift ;;
      --limit) limit=${2:?seconds are missing} && shift ;;
      -*) sed -n '2,9s/^# //p' "$self" >&2 && exit 2 ;;
      *)
        [[ " $all_stages " == *" $1 "* ]] || { echo "gpu_check.sh: no stage is named $1 (there are $all_stages)" >&2; exit 2; }
        chosen+=("$1")
        ;;
    esac
    shift
  done
  # How fast a dry run is says nothing: it has time.
  [ -n "$limit" ] || { [ "$GPU_CHECK_DRY" = yes ] && limit=3000 || limit=540; }
  [ ${#chosen[@]} -gt 0 ] || read -ra chosen <<< "$all_stages"
  OUT=$(realpath -m "${OUT:-$root/build/gpu_check}")
  mkdir -p "$OUT" && cd "$root" || exit 2
  [ -x "$(command -v nvcc)" ] || PATH=$PATH:/usr/local/cuda/bin
  rm -f "$OUT"/*.log "$OUT/stages" "$OUT/table.md"
  failed=0
  trap report EXIT
  trap 'exit 1' INT TERM
  for stage in "${chosen[@]}"; do run_stage "$stage"; done
  exit "$failed"
}

case ${1:-} in
  inside) "stage_$2" ;;
  *) main "$@" ;;
esac
