#!/usr/bin/env bash
# The demo on one machine, in build/demo. It ends what it started, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/demo

finish() {
  # Only a demo that was interrupted leaves its world running.
  [[ ! -e $folder/world/supervisor.json ]] || "$VENV/bin/agentworld" down --data "$folder/world" || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$VENV/bin/python" hack/demo.py "$folder" &
wait $!
