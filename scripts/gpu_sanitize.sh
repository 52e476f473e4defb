#!/usr/bin/env bash
# The cases of the label `gpu` under compute-sanitizer, several at a time, each with a limit of its own; a line per case.
#   scripts/gpu_sanitize.sh BUILD_DIR [TOOL..., default memcheck synccheck racecheck initcheck]
# Every case runs under every tool with all products in lema's plain kernel (target no_products): racecheck breaks down in
# the kernels of cuBLASLt ("failed to handle a hardware exception"), initcheck does not see what they store. memcheck and
# synccheck also run over cuBLASLt: all cases with products of gpu_kernels, gpu_generate, a training step of each kind.
# racecheck takes minutes for the plain product, so that it looks at that kernel in the cases of `with_product` only. The
# training cases run one step each, under racecheck, which looks into kernels, in few placements (LEMA_SANITIZED, the tool).
# JOBS (default 8) cases at a time, LIMIT seconds each (default 900), logs in BUILD_DIR/sanitize; CONTINUE=1 leaves out what
# an earlier call found clean there of the same executables, ONLY what does not match this pattern of "tool products
# executable name".
set -euo pipefail
build=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- memcheck synccheck racecheck initcheck
cmake --build "$build" --target gpu_kernels gpu_train gpu_generate no_products >/dev/null
ls "$build"/tests/no_products/libcublasLt.so.* >/dev/null
export build logs=$build/sanitize with_product="linear: (odd shapes|parts that lie)"
of=$(cd "$build/tests" && md5sum gpu_train gpu_kernels gpu_generate no_products/libcublasLt.so.*)
[ -n "${CONTINUE:-}" ] && [ "$of" = "$(cat "$logs/of" 2>/dev/null)" ] || rm -rf "$logs"
mkdir -p "$logs"
echo "$of" >"$logs/of"
touch "$logs/results"
sed -i '/: clean$/!d' "$logs/results"

run_case() {  # tool, products (cublaslt or plain), executable, filter
  local log passed start=$SECONDS status=0 flags=(--tool "$1" --error-exitcode 9)
  grep -qxF "$1 $2 $3 '$4': clean" "$logs/results" && return
  log=$logs/$1.$2.$(md5sum <<<"$3 $4" | cut -c1-10).log
  [ "$2" = cublaslt ] || export LD_LIBRARY_PATH=$build/tests/no_products${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  [ "$1" != racecheck ] || [[ $4 =~ $with_product ]] || flags+=(--kernel-name-exclude kns=7product)  # of mangled names
  LEMA_SANITIZED=$1 timeout "${LIMIT:-900}" compute-sanitizer "${flags[@]}" "$build/tests/$3" "$4" >"$log" 2>&1 &
  trap "kill $!" TERM  # a script that is ended leaves no tool on the GPU
  wait $! || status=$?
  # A filter that matches no case ends with 0 too, and what a tool has not summed up is not known. Under racecheck some cases
  # leave out the run that they compare with, and with it their assertions: "1 passed" is what Catch2 says then.
  passed='All tests passed'
  [ "$1" != racecheck ] || passed+='|^test cases: 1 \| 1 passed$'
  [ "$status" != 0 ] || grep -qE "$passed" "$log" || status="no case"
  [ "$status" != 0 ] || tail -n 1 "$log" | grep -qE 'ERROR SUMMARY: 0 errors$|RACECHECK SUMMARY: 0 hazards displayed' ||
    status="no summary"
  case $status in 0) status=clean ;; 124 | 143) status=unfinished ;; *) status="FAILED ($status)" ;; esac  # limit, TERM
  echo "$1 $2 $3 '$4': $status" >>"$logs/results"
  echo "$1 $2 $3 '$4': $status, $((SECONDS - start)) s"
}
export -f run_case

cases() {  # executable: names as filters, without those that compute on the CPU alone
  local names
  names=$("$build/tests/$1" --list-test-names-only "~[cpu]" || true)  # Catch2 2, which ends with their number
  [ -n "$names" ] || names=$("$build/tests/$1" --list-tests -v quiet "~[cpu]" || true)
  grep . <<<"$names" | grep -vE '^the reference|derivative' | sed 's/,/\\,/g' || { echo "$1 lists no case" >&2; exit 1; }
}

for executable in gpu_train gpu_kernels gpu_generate; do  # the longest first
  for tool in "$@"; do
    cases $executable | while read -r name; do
      case "$executable $tool $name" in
        *" racecheck "* | *" initcheck "*) ;;
        gpu_kernels*linear* | gpu_kernels*head* | gpu_kernels*lora_norm* | gpu_generate* | gpu_train*"each kind of model"*)
          echo "$tool cublaslt $executable $name" ;;
      esac
      echo "$tool plain $executable $name"
    done
  done
done | grep -E "${ONLY:-.}" | sed 's/ /\x00/; s/ /\x00/; s/ /\x00/' | tr '\n' '\0' |
  xargs -0 -n 4 -P "${JOBS:-8}" bash -c 'run_case "$@"' _
! grep -v ': clean$' "$logs/results"
