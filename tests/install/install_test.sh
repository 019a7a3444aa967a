#!/usr/bin/env bash
# install_test.sh BUILD_DIRECTORY: the installed tree works from where it was put, and after it was moved.
set -euo pipefail
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/first" >"$work/log"
mv "$work/first" "$work/second"
cd "$work"
expected=$("$build/cli/retort" --version)
[ "$(second/bin/retort --version)" = "$expected" ] || { echo "the installed program reports another version"; exit 1; }
if [ -f "$build/cli/retort-torch" ]; then
  [ "$(second/bin/retort-torch --version)" = "$expected" ] || { echo "LibTorch is not found"; exit 1; }
fi
[ -f second/share/retort/recipes/quickstart/teacher/config.json ] || { echo "the recipes are missing"; exit 1; }
[ -f second/share/doc/retort/README.md ] || { echo "the documentation is missing"; exit 1; }
if grep -rIl -e "$work/first" second; then echo "these files name the place of installation"; exit 1; fi
