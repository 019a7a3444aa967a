#!/usr/bin/env bash
# Installs what the build needs and is not there yet: Debian packages, and LibTorch from PyPI's torch wheel.
# Prints the CMAKE_PREFIX_PATH to build with as its last line; everything else goes to standard error.
# An existing LibTorch of 2.6 or newer named by CMAKE_PREFIX_PATH is used as it is.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
torch_version=2.11.0
deps="$root/.deps"

say() { printf '%s\n' "setup: $*" >&2; }

install_packages() {
  local wanted=(cmake ninja-build ccache g++ python3 python3-pip python3-venv xz-utils
    libeigen3-dev libboost-program-options-dev libhdf5-dev libfmt-dev libgtest-dev libgmock-dev
    nlohmann-json3-dev libyaml-cpp-dev libpcre2-dev libprotobuf-dev protobuf-compiler
    libutf8proc-dev libxxhash-dev libbenchmark-dev)
  local missing=()
  for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing Debian packages: ${missing[*]}"
  local sudo=""
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  $sudo apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# A directory of CMAKE_PREFIX_PATH that holds LibTorch 2.6 or newer, or nothing.
given_torch() {
  local IFS=':;' dir version
  for dir in ${CMAKE_PREFIX_PATH:-}; do
    local config="$dir/share/cmake/Torch/TorchConfigVersion.cmake"
    [ -f "$config" ] || continue
    version=$(grep -oP 'PACKAGE_VERSION "\K[0-9.]+' "$config" | head -1)
    [ "$(printf '%s\n' 2.6 "$version" | sort -V | head -1)" = 2.6 ] && { echo "$dir"; return; }
    say "LibTorch $version in $dir is older than 2.6 and is not used"
  done
}

install_torch() {
  local target="$deps/torch-$torch_version"
  if [ ! -f "$target/.complete" ]; then
    say "installing LibTorch $torch_version (once, about two minutes)"
    rm -rf "$target"
    mkdir -p "$target"
    local packages=("torch==$torch_version" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cupti==13.0.*") flags=(--no-deps)
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
      packages=("torch==$torch_version")
      flags=()
    fi
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore "${flags[@]}" \
      --target "$target" "${packages[@]}" >&2
    touch "$target/.complete"
  fi
  echo "$target/torch"
}

[ "${RETORT_SKIP_PACKAGES:-}" = 1 ] || install_packages
[ "${1:-}" = --no-torch ] && exit 0
torch=$(given_torch)
[ -n "$torch" ] || torch=$(install_torch)
echo "$torch"
