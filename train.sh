#!/usr/bin/env bash
# Trains a policy: bash train.sh TASK POLICY_CONFIG [options of `twinbench train`]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ -x "$here/.venv/bin/twinbench" ]]; then
  exec "$here/.venv/bin/twinbench" train "$@"
elif command -v twinbench >/dev/null; then
  exec twinbench train "$@"
fi
echo "train.sh: twinbench is not installed: run \`make setup\` in $here" >&2
exit 1
