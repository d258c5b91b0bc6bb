#!/usr/bin/env bash
# Evaluates a policy: bash eval.sh TASK POLICY [options of `twinbench eval`]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ -x "$here/.venv/bin/twinbench" ]]; then
  exec "$here/.venv/bin/twinbench" eval "$@"
elif command -v twinbench >/dev/null; then
  exec twinbench eval "$@"
fi
echo "eval.sh: twinbench is not installed: run \`make setup\` in $here" >&2
exit 1
