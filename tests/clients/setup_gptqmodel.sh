#!/usr/bin/env bash
# Installs GPTQModel, whose pins do not go with those of the other clients, into .deps/clients-gptqmodel: about 6 GB.
# tests/clients/test_gptqmodel.py runs with it, and says that it was skipped without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
environment=.deps/clients-gptqmodel
wanted=tests/clients/requirements-gptqmodel.txt
if cmp -s "$wanted" "$environment/requirements.txt"; then exit 0; fi
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2
cp "$wanted" "$environment/requirements.txt"
