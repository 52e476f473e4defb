#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that lema's build needs and this machine lacks; with the argument `tests` also
# those of its tests. quickstart.sh and test.sh call it. Elsewhere than on apt systems it names them and goes on.
set -euo pipefail

packages=(nlohmann-json3-dev libspdlog-dev libfmt-dev libcli11-dev libtomlplusplus-dev libpcre2-dev libutf8proc-dev
          liburing-dev libssl-dev zlib1g-dev)
[[ ${1:-} != tests ]] || packages+=(catch2 ccache clang-16 libclang-rt-16-dev e2fsprogs xfsprogs)

missing=()
# need COMMAND PACKAGE: the package if the command, from wherever it was installed, does not run.
need() { bash -c "$1" > /dev/null 2>&1 || missing+=("$2"); }
need "cmake --version" cmake
need "c++ --version" g++
need "ninja --version" ninja-build
need "python3 --version" python3
# ensurepip is what Debian leaves out of python3; it makes virtual environments, and pip lives in them.
need "python3 -c 'import ensurepip, venv'" python3-venv

if ! command -v dpkg-query > /dev/null; then
  echo "No apt here. lema needs these Debian packages, or what they hold: ${missing[*]} ${packages[*]}"
  exit 0
fi
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${Status}' "$package" 2> /dev/null) == "install ok installed" ]] || missing+=("$package")
done
if [[ ${#missing[@]} == 0 ]]; then
  echo "All packages are installed."
  exit 0
fi

root=()
[[ $(id -u) == 0 ]] || root=(sudo)
export DEBIAN_FRONTEND=noninteractive
echo "Installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${root[@]}" apt-get update && "${root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } \
    > "$log" 2>&1; then
  cat "$log"
  exit 1
fi
