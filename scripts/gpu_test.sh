#!/usr/bin/env bash
# Runs the tests that need a GPU (label `gpu`) of a build; blocks of up to 608 MiB with their weights in every place (6 GB
# of models in a folder that is deleted again); the fault tests of runs on the GPU; training and logits of every family
# against transformers and PEFT with lema on the GPU, where they are installed (LEMA_GGUF: SmolLM2's file, for the logits of
# a real model, which the package gguf reads); and the first under compute-sanitizer (gpu_sanitize.sh), where it is there.
# What was skipped is said last, and the exit code is 77; without a GPU that is at once.
#   scripts/gpu_test.sh [BUILD_DIR, default build] [TOOL of compute-sanitizer..., default all four]
set -euo pipefail
build=$(realpath "${1:-build}")
shift || true
source=$(dirname "$(dirname "$(realpath "$0")")")
status=0 skipped=()
"$build/tests/gpu_generate" "no such case" >/dev/null 2>&1 || status=$?  # 77 as gpu_main.cpp has it
case $status in
  77) echo "no GPU here: nothing is tested" >&2; exit 77 ;;
  126 | 127) echo "no tests for a GPU in $build: configure it with -DLEMA_CUDA=ON -DLEMA_TESTS=ON and build it" >&2; exit 1 ;;
esac
ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
python3 "$source/scripts/check_exactness.py" --lema "$build/lema" --folder "$models"
for test in "resume_matrix" "memory" "nonfinite" "signals Phases" "kill" "soak"; do
  echo "== faults on the GPU: $test"
  read -ra words <<<"$test"
  LEMA_RUN_DEVICE=cuda LEMA=$build/lema LEMA_FAULTY=$build/tests/lema_faulty LEMA_SOURCE=$source \
    PYTHONPATH=$source/tests/support LEMA_KILLS=20 python3 "$source/tests/fault/${words[0]}_test.py" "${words[@]:1}"
done
if python3 -c "import peft" 2>/dev/null; then
  for test in logits_test train_test; do
    LEMA=$build/lema LEMA_SOURCE=$source PYTHONPATH=$source/tests/support HF_HUB_OFFLINE=1 \
      python3 "$source/tests/parity/$test.py"
  done
  [ -n "${LEMA_GGUF:-}" ] || skipped+=("logits of a real model: LEMA_GGUF names no file")
else
  skipped+=("comparisons with transformers and PEFT: no peft here")
fi
if command -v compute-sanitizer >/dev/null; then
  "$source/scripts/gpu_sanitize.sh" "$build" "$@"
else
  skipped+=("checks of compute-sanitizer: it is not here")
fi
[ ${#skipped[@]} = 0 ] || { printf 'skipped: %s\n' "${skipped[@]}"; exit 77; }
