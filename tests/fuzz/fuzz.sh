#!/usr/bin/env bash
# fuzz.sh TARGET NAME SECONDS [options of libFuzzer]: replays tests/fuzz/corpus/NAME with the fuzz target, then fuzzes for
# SECONDS from those seeds; ctest (label fuzz) and fuzz_all.py run it. An input may take 512 MiB, and 1 s: 20 s with
# sanitizers on a busy machine. What a run finds stays in the folder that it names when it fails; the seeds are not
# written to.
set -euo pipefail
target=$1 name=$2 seconds=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
corpus=$here/corpus/$name
found=$(mktemp -d)
# The target's files are in memory where there is any such file system, and go whatever its end.
memory=/dev/shm
[[ -d $memory ]] || memory=${TMPDIR:-/tmp}
export TMPDIR
TMPDIR=$(mktemp -d -p "$memory")
trap 'rm -rf "$TMPDIR"' EXIT
# Freed memory that AddressSanitizer holds back counts as the target's.
export ASAN_OPTIONS=quarantine_size_mb=16:malloc_context_size=8:detect_leaks=1
export UBSAN_OPTIONS=print_stacktrace=1
limits=(-timeout=20 -rss_limit_mb=512 -malloc_limit_mb=256 -max_len=8192 "-artifact_prefix=$found/")
dictionary=$here/dictionaries/$name.dict
[[ ! -f $dictionary ]] || limits+=("-dict=$dictionary")
"$target" "${limits[@]}" -seed=1 "-max_total_time=$seconds" -print_final_stats=1 "$@" "$found" "$corpus" \
  > "$found/log" 2>&1 || { tail -60 "$found/log"; echo "the input is in $found"; exit 1; }
grep -E "stat::number_of_executed_units|stat::peak_rss_mb" "$found/log"
rm -rf "$found"
