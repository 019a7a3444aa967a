#!/usr/bin/env bash
# Sets up, builds everything with and without LibTorch, installs the client programs that the tests run (their pinned
# versions stand in tests/clients/requirements.txt), and runs every test. Fails when any of it fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/build.sh

install_clients() {
  local wanted=tests/clients/requirements.txt installed=.deps/clients/requirements.txt
  cmp -s "$wanted" "$installed" && return
  echo "test: installing the client programs of the tests" >&2
  python3 -m venv .deps/clients
  .deps/clients/bin/pip install --quiet --disable-pip-version-check -r "$wanted" >&2
  cp "$wanted" "$installed"
}

torch=$(scripts/setup.sh)
install_clients
build release all -DCMAKE_PREFIX_PATH="$torch"
# What is the same without LibTorch has just been compiled, and is tested once.
build no-torch all -DRETORT_COMMON_TESTS=OFF -DRETORT_BENCHMARKS=OFF
failed=0
ctest --preset no-torch --parallel "$(nproc)" "$@" || failed=1
ctest --preset release --parallel "$(nproc)" "$@" || failed=1
exit $failed
