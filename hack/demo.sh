#!/usr/bin/env bash
# The demo on one machine, in build/demo. It ends what it started, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/demo
child=

interrupted() {
  # The demo stops its world before it ends.
  kill -TERM "$child" 2>/dev/null || true
  wait "$child" || true
  exit "$1"
}
finish() {
  # Only a demo that was killed leaves its world running.
  [[ ! -e $folder/world/supervisor.json ]] || "$VENV/bin/agentworld" down --data "$folder/world" || true
}
trap finish EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

"$VENV/bin/python" hack/demo.py "$folder" &
child=$!
wait "$child"
