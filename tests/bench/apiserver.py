"""An API server of Kubernetes over the etcd that is the peer, for the Leases of the benchmark."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pykube

from agentworld_node.kube.leases import KubernetesLeases, KubernetesLeaseStore
from tests.bench.etcd_peer import Etcd, EtcdMissing
from tests.chart.api_server import api_server_over, programs

NAMESPACE = "default"
_LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


class LeaseServer:
    """Keeps its objects in the etcd it is given; ended on exit. ``kubeconfig`` is how processes reach it."""

    def __init__(self, folder: Path, etcd: Etcd):
        self._folder = folder / f"apiserver-{len(etcd.ports)}"
        self._etcd = [f"http://127.0.0.1:{port}" for port in etcd.ports]
        binaries = programs()
        if binaries is None:
            raise EtcdMissing("there is no kube-apiserver: `make cluster-build` builds one")
        self._binaries = binaries
        self._running = ExitStack()
        self.kubeconfig = self._folder / "kubeconfig"

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._api = self._running.enter_context(api_server_over(self._etcd, self._binaries, self._folder))
        certificate = self._folder / "certificates" / "apiserver.crt"
        self.kubeconfig.write_text(json.dumps(self._api.kubeconfig(certificate, namespace=NAMESPACE)))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def make_lease(self, name: str) -> None:
        """Makes a Lease that nobody holds, as the operator does."""
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}
        answer = self._api.call("POST", _LEASES, body)
        assert answer.code == 201, answer.message


def lease_store(kubeconfig: Path, name: str) -> KubernetesLeaseStore:
    """Returns the store of a Lease that is there, as a node uses it."""
    leases = KubernetesLeases(NAMESPACE, configure=lambda: pykube.KubeConfig.from_file(str(kubeconfig)))
    return KubernetesLeaseStore(leases, name)
