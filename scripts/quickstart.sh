#!/usr/bin/env bash
# From a bare checkout to compressed models: installs what is missing, builds, and runs recipes/quickstart.yaml into
# quickstart-out. Run again, it redoes only what changed. Arguments go to `retort run` (--dry-run, --threads 4, ...).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/build.sh

torch=$(scripts/setup.sh)
build release retort -DCMAKE_PREFIX_PATH="$torch"
exec build/release/cli/retort run recipes/quickstart.yaml --output quickstart-out "$@"
