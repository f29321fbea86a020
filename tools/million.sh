#!/bin/bash
# tools/million.sh - a million tokens within 2 GiB of memory for K and V: read once, sparsely, and
# saved; then every question is a process of its own that opens the saved context again.
#   tools/million.sh FOLDER [TOKENS] [options of strata run]
# FOLDER takes some 18 GB for a million tokens and is left as it is, so that a second call asks
# again without reading. The model is built, not trained (docs/recall-model.md): each question's
# five answers follow from facts that stand all over the text, in every layer and KV head. Ends with
# 1 where an answer is wrong. PROGRAMS names another build than build/release/tools.
set -euo pipefail
folder=$(realpath -m "$1")
cd "$(dirname "$0")/.."
programs=${PROGRAMS:-build/release/tools}
tokens=${2:-1000000}
shift $(($# < 2 ? $# : 2))
mkdir -p "$folder/spill"
mkdir -p -m 700 "$folder/contexts"
model=$folder/hops.gguf text=$folder/text-$tokens.txt questions=$folder/questions-$tokens
if [ ! -s "$questions" ]; then
  "$programs/make_recall_model" "$model" --variant multi-hop --layers 4 --kv-heads 4 \
    --head-dim 128 --chains 8 --text "$text" --tokens "$tokens" >"$questions.new"
  mv "$questions.new" "$questions"
fi

n=0 right=0
while IFS= read -r line; do
  question=" ${line%% -> *}" wanted=" ${line#* -> }"
  # A new process finds nothing in the page cache, where that may be emptied.
  sync
  (echo 3 >/proc/sys/vm/drop_caches) 2>/dev/null || true
  n=$((n + 1))
  echo "== question $n:$question"
  started=$(date +%s%N)
  "$programs/strata" run -m "$model" --raw --temp 0 -n 5 -f "$text" -p "$question" \
    -c $((tokens + 512)) --attn pq --kv-budget 2048 --sparse-prefill on --kv-dram 2GiB \
    --nvme "$folder/spill" --session-dir "$folder/contexts" "$@" \
    </dev/null >"$folder/answer" 2>"$folder/said" || { cat "$folder/said" && exit 1; }
  took=$(awk -v ns=$(($(date +%s%N) - started)) 'BEGIN { printf "%.2f s", ns / 1e9 }')
  grep -v '^reading\|^loading' "$folder/said" || true
  answer=$(cat "$folder/answer")
  if [ "$answer" = "$wanted" ]; then
    right=$((right + 1)) verdict=right
  else
    verdict="WRONG, wanted$wanted"
  fi
  echo "   answer:$answer ($verdict), the whole process $took"
done <"$questions"
echo "$right of $n answers right"
[ "$right" = "$n" ]
