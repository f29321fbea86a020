#!/usr/bin/env bash
# tools/disk_faults.sh STRATA MODEL TEXT [FAULT|PHASE...] - what a bad disk does to `strata run`, on a real block device
# (docs/fault-model.md, "Long runs"). Every fault in every phase, or those named: the run must end by itself with at most
# one error line, leave no file, and what is saved must be whole once the disk is well again. Prints a line per cell.
#
# Faults: full eio slow hung pulled. Phases: load prefill decode save restore.
# The disk is ext4 on a loop device on a file that nbdfuse serves from nbdkit's memory: its error filter answers EIO, its
# rate filter slows it down, SIGSTOP hangs it, SIGKILL pulls it. Wants root, loop devices, FUSE; nbdkit and libnbd-bin.
# MODEL wants a context of 6,144 tokens; TEXT should fill most of it (examples/archive-log.txt with SmolLM2).
# The exit code is 1 where a cell is bad, 77 where the disk cannot be had here.
set -uo pipefail

readonly faults="full eio slow hung pulled"
readonly phases="load prefill decode save restore"
# How long a run may go on behind the fault. A transfer is given up after 10 s, saving after 60 s; the rest is the run's
# own work, which a slow disk stretches.
readonly patience_s=${PATIENCE_S:-150}

skip() {
  printf '%s\n' 'disk_faults.sh: Skipped' "$*" >&2  # as test.sh looks for reasons
  exit 77
}

[ $# -ge 3 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
if [ -z "${IN_OWN_MOUNTS:-}" ]; then
  for tool in nbdkit nbdfuse losetup mkfs.ext4; do
    PATH=$PATH:/sbin:/usr/sbin command -v "$tool" > /dev/null || skip "there is no $tool"
  done
  [ -f "$2" ] || skip "there is no model $2"
  unshare --mount true 2> /dev/null || skip "mounts of its own are not allowed here"
  IN_OWN_MOUNTS=1 PATH=$PATH:/sbin:/usr/sbin exec unshare --mount "$0" "$@"
fi

strata=$(realpath "$1") model=$(realpath "$2") text=$(realpath "$3")
shift 3
# chosen ALL... -- WORD...: those of ALL that are among the words; all where none is.
chosen() {
  local all=() found=() word
  while [ "$1" != -- ]; do all+=("$1") && shift; done
  for word in "${all[@]}"; do [[ " $* " != *" $word "* ]] || found+=("$word"); done
  [ ${#found[@]} -gt 0 ] || found=("${all[@]}")
  echo "${found[@]}"
}
for word in "$@"; do
  [[ " $faults $phases " == *" $word "* ]] || { echo "disk_faults.sh: no fault or phase is named $word" >&2; exit 2; }
done
# shellcheck disable=SC2086  # lists of words
wanted_faults=$(chosen $faults -- "$@") wanted_phases=$(chosen $phases -- "$@")
work=$(mktemp -d) || exit 1
disk=$work/disk
server='' fuse='' loop='' run=''

end() {  # end PID: a process of ours, quietly
  [ -n "$1" ] || return
  kill -KILL "$1" 2> /dev/null
  wait "$1" 2> /dev/null
}

ended_or() {  # ended_or PID COMMAND...: true as well where that process is gone
  local pid=$1
  shift
  "$@" || ! kill -0 "$pid" 2> /dev/null
}

plug_in() {
  mkdir -p "$work/nbd" "$disk"
  rm -f "$work"/{fails,rate,socket}
  nbdkit --foreground --unix "$work/socket" --filter=error --filter=rate memory 8G error=EIO error-rate=100% \
    error-file="$work/fails" rate-file="$work/rate" 2> "$work/nbdkit.log" &
  server=$!
  wait_until 10 ended_or "$server" test -S "$work/socket" && [ -S "$work/socket" ] || skip "nbdkit does not start: $(cat "$work/nbdkit.log")"
  nbdfuse "$work/nbd/nbd" --unix "$work/socket" 2> "$work/nbdfuse.log" &
  fuse=$!
  disown "$fuse"  # it aborts where its disk is pulled, which is no news
  wait_until 10 ended_or "$fuse" test -s "$work/nbd/nbd" && [ -s "$work/nbd/nbd" ] || skip "nbdfuse does not start: $(cat "$work/nbdfuse.log")"
  # Without direct I/O the loop device's own cache would hide the faults.
  loop=$(losetup --find --show --direct-io=on "$work/nbd/nbd" 2>&1) || skip "no loop device: $loop"
  mkfs.ext4 -q -m 0 -F "$loop" && mount "$loop" "$disk" || skip "no ext4 on $loop"
}

mend() {
  [ -z "$server" ] || kill -CONT "$server" 2> /dev/null
  rm -f "$work"/{fails,rate} "$disk/ballast" 2> /dev/null
}

unplug() {
  mend
  [ -z "$run" ] || kill -KILL "$(cat "$work/run")" 2> /dev/null
  [ -z "$run" ] || wait "$run"
  ! mountpoint -q "$disk" || umount "$disk" || umount -l "$disk"
  [ -z "$loop" ] || losetup --detach "$loop" 2> /dev/null
  end "$server"
  end "$fuse"
  umount -l "$work/nbd" 2> /dev/null
  server='' fuse='' loop='' run=''
}
trap 'unplug; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

wait_until() {  # wait_until SECONDS COMMAND...: polls; false where it did not come true
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.02
  done
}

break_disk() {  # break_disk FAULT
  case $1 in
    full) fallocate -l "$(($(stat -f -c '%a * %S' "$disk") - 65536))" "$disk/ballast" ;;
    eio) touch "$work/fails" ;;
    slow) echo 160M > "$work/rate" ;;  # bits per second: 20 MB
    hung) kill -STOP "$server" ;;
    pulled) end "$server" ;;
  esac
}

has_ended() { [ -s "$work/code" ]; }
says() { has_ended || grep -q "$1" "$work/err"; }
answers() { has_ended || [ -s "$work/out" ]; }

start() {  # start MODEL TOKENS OPTION...
  local model=$1 n=$2
  shift 2
  rm -f "$work/code"
  {
    "$strata" run -m "$model" -f "$text" -p 'What does it say?' -c 6k --temp 0 --ignore-eos -n "$n" "$@" \
      < /dev/null > "$work/out" 2> "$work/err" &
    echo $! > "$work/run"
    wait $!  # returns when the last of its threads is gone, even one that waits for the disk
    echo $? > "$work/code"
  } &
  run=$!
}

# Starts the run of a phase and returns when it is in it.
enter() {  # enter PHASE
  local on_disk=(--kv-dram 60MiB --nvme "$disk/spill" --nvme-budget 1GiB --no-cache)
  local saved=(--nvme off --session-dir "$disk/saved" --session kept)
  : > "$work/out"
  : > "$work/err"
  case $1 in
    load)
      cp "$model" "$disk/model.gguf" && sync -f "$disk"
      echo 40M > "$work/rate"  # bits per second: so that it takes longer than this script's way to the fault
      start "$disk/model.gguf" 8 --nvme off --no-cache --load direct
      sleep 1
      ;;
    prefill)
      start "$model" 8 "${on_disk[@]}"
      wait_until 60 says loading && sleep 0.3
      ;;
    decode)
      start "$model" 16 "${on_disk[@]}"
      wait_until 120 answers
      ;;
    save)
      echo 40M > "$work/rate"  # so that there is much to wait for at the end
      start "$model" 8 "${saved[@]}"
      wait_until 120 says 'stopped:'
      ;;
    restore)
      start "$model" 8 "${saved[@]}"
      wait "$run"
      umount "$disk" && mount "$loop" "$disk"  # nothing of it is in memory
      echo 200M > "$work/rate"
      start "$model" 8 "${saved[@]}"
      wait_until 60 says 'were read before'
      ;;
  esac
}

# What is wrong with a run that ended so.
problems() {  # problems FAULT EXIT_CODE
  local n_errors
  n_errors=$(grep -c '^error: ' "$work/err")
  case $2 in
    0) [ "$n_errors" -eq 0 ] || echo "$n_errors errors and exit code 0" ;;
    1) [ "$n_errors" -eq 1 ] || echo "$n_errors error lines" ;;
    *) echo "exit code $2" ;;
  esac
  [[ $1 != eio && $1 != pulled ]] || grep -qE '^(error|note): ' "$work/err" || echo "nothing was said of the fault"
  [ "$1" != pulled ] || return
  # The kernel gives the files of an ended run back when their last transfer is over.
  wait_until 60 umount "$disk" 2> /dev/null && mount "$loop" "$disk" || { echo "the disk cannot be mounted again"; return; }
  [ -z "$(ls -A "$disk/spill" 2> /dev/null)" ] || echo "left in the spill folder: $(ls -A "$disk/spill")"
  [ ! -d "$disk/saved" ] || "$strata" session verify --session-dir "$disk/saved" > "$work/verified" 2>&1 ||
    echo "what is saved is not whole: $(head -1 "$work/verified")"
}

bad=0
printf '%-8s %-8s %7s %5s  %s\n' fault phase seconds exit 'last word'
for fault in $wanted_faults; do
  for phase in $wanted_phases; do
    plug_in
    enter "$phase"
    was_in=yes
    has_ended && was_in=no
    break_disk "$fault"
    began=$(date +%s.%N)
    verdict=
    if ! wait_until "$patience_s" has_ended; then
      # The kernel keeps a process whose thread waits in fsync until the disk answers. It has to have said so by now.
      grep -q '^note: .*does not answer' "$work/err" || verdict="still runs $patience_s s later; "
    fi
    took=$(date +%s.%N)
    mend
    wait "$run"
    run=
    code=$(cat "$work/code")
    [ "$was_in" = yes ] || verdict+="ended before the fault; "
    verdict+=$(problems "$fault" "$code" | paste -sd';')
    printf '%-8s %-8s %7.1f %5s  %s\n' "$fault" "$phase" "$(awk -v a="$began" -v b="$took" 'BEGIN { print b - a }')" "$code" \
      "$(grep -E '^(error|note)' "$work/err" | tail -1 | cut -c1-150)"
    if [ -n "$verdict" ]; then
      printf 'disk_faults.sh: Failure\nBAD: %s\n' "$verdict"  # the first as test.sh looks for reasons
      sed 's/^/    /' "$work/err"
      bad=$((bad + 1))
    fi
    unplug
  done
done
echo "$bad bad cells"
[ "$bad" -eq 0 ]
