#!/usr/bin/env bash
# Installs the programs that ours are measured against, each into a virtual environment of its own (their pins
# conflict): .deps/peers-NAME, about 6 GB and 4 minutes each, llama.cpp 1 GB and 10 minutes (it is compiled).
#
# usage: bench/peers/install.sh [llamacpp|llmcompressor|gptqmodel|autoround]...    without a name: all of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

packages_of() {
  case "$1" in
    llamacpp) echo "llama-cpp-python==0.3.36 gguf==0.19.0 numpy" ;;
    llmcompressor) echo "llmcompressor==0.14.0.1" ;;
    gptqmodel) echo "gptqmodel==7.7.0 optimum" ;;
    autoround) echo "auto-round==0.15.1" ;;
    *) echo "$0: there is no peer '$1'" >&2; return 2 ;;
  esac
}

install() {
  local environment=.deps/peers-$1 packages
  packages=$(packages_of "$1")
  if [ "$(cat "$environment/installed" 2>/dev/null)" = "$packages" ]; then return; fi
  python3 -m venv "$environment"
  # GPTQModel's build wants torch to be there before it.
  if [ "$1" != llamacpp ]; then "$environment/bin/pip" install --quiet torch==2.11.0 setuptools wheel; fi
  # shellcheck disable=SC2086
  "$environment/bin/pip" install --quiet $([ "$1" = gptqmodel ] && echo --no-build-isolation) $packages
  echo "$packages" > "$environment/installed"
}

for peer in "${@:-llamacpp llmcompressor gptqmodel autoround}"; do
  for one in $peer; do install "$one"; done
done
