#!/usr/bin/env bash
# Runs the tests that need a GPU (label `gpu`) of a build, then the same under compute-sanitizer where it is there.
#   scripts/gpu_test.sh [BUILD_DIR, default build] [memcheck racecheck initcheck synccheck ...]
set -euo pipefail
build=${1:-build}
shift || true
ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error
command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here: checks skipped"; exit 0; }
for tool in "${@:-memcheck}"; do
  for test in gpu_kernels gpu_train gpu_generate; do
    # initcheck does not see what the kernels of cuBLASLt store: it is for those that read no product.
    only="~[cpu]"
    [[ $tool != initcheck ]] || only="attention*"
    [[ $tool != initcheck || $test == gpu_kernels ]] || continue
    echo "== $tool over $test $only"
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/$test" "$only" | tail -n 4
  done
done
