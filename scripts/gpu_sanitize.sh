#!/usr/bin/env bash
# The cases of the label `gpu` under compute-sanitizer, several at a time, each with a limit of its own; a line per case.
#   scripts/gpu_sanitize.sh BUILD_DIR [TOOL..., default memcheck synccheck racecheck initcheck]
# Every case runs under every tool with all products in lema's plain kernel (target no_products): racecheck breaks down in
# the kernels of cuBLASLt ("failed to handle a hardware exception"), initcheck does not see what they store. memcheck and
# synccheck also run over cuBLASLt: all cases with products of gpu_kernels, gpu_generate, a training step of each kind.
# JOBS (default 8) cases at a time, LIMIT seconds each (default 900), logs in BUILD_DIR/sanitize.
set -euo pipefail
build=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- memcheck synccheck racecheck initcheck
ninja -C "$build" gpu_kernels gpu_train gpu_generate no_products >/dev/null
export build logs=$build/sanitize
rm -rf "$logs"
mkdir -p "$logs"

run_case() {  # tool, products (cublaslt or plain), executable, filter
  local log start=$SECONDS status=0
  log=$logs/$1.$2.$(md5sum <<<"$3 $4" | cut -c1-10).log
  [ "$2" = cublaslt ] || export LD_LIBRARY_PATH=$build/tests/no_products:${LD_LIBRARY_PATH:-}
  timeout "${LIMIT:-900}" compute-sanitizer --tool "$1" --error-exitcode 9 "$build/tests/$3" "$4" >"$log" 2>&1 || status=$?
  case $status in 0) status=clean ;; 124) status="unfinished" ;; *) status="FAILED ($status)" ;; esac
  echo "$1 $2 $3 '$4': $status, $((SECONDS - start)) s" | tee -a "$logs/results"
}
export -f run_case

cases() {  # executable: names as filters, without those that compute on the CPU alone
  { "$build/tests/$1" --list-test-names-only "~[cpu]" || true; } | grep -vE '^the reference|derivative' | sed 's/,/\\,/g'
}

{
  for executable in gpu_kernels gpu_generate gpu_train; do
    for tool in "$@"; do
      cases $executable | while read -r name; do
        case "$tool $name" in
          racecheck* | initcheck* | *gpu:*) ;;
          *linear* | *head* | *lora_norm*) printf '%s\0' "$tool" cublaslt $executable "$name" ;;
        esac
        printf '%s\0' "$tool" plain $executable "$name"
      done
    done
  done
  for tool in "$@"; do
    case $tool in memcheck | synccheck)
      printf '%s\0' "$tool" cublaslt gpu_generate "gpu*" "$tool" cublaslt gpu_train "[sanitize]" ;;
    esac
  done
} | xargs -0 -n 4 -P "${JOBS:-8}" bash -c 'run_case "$@"' _
! grep -v ': clean,' "$logs/results"
