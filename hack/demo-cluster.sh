#!/usr/bin/env bash
# The demo on Kubernetes. CLUSTER=current takes the cluster of your KUBECONFIG; otherwise kind where a Docker daemon
# answers, else a local cluster that hack/cluster builds (about 15 minutes, once) and starts.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "$VENV/bin/python" hack/demo_cluster.py "$@"
