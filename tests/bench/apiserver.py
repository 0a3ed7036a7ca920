"""An API server of Kubernetes over an etcd that is there already, for Leases alone: without nodes or access rules."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, Self

import pykube
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentworld_node.kube.leases import KubernetesLeases, KubernetesLeaseStore
from tests.bench.etcd_peer import Etcd, EtcdMissing, find_binary
from tests.bench.processes import end_all, free_ports, wait_for

NAMESPACE = "default"
_TOKEN = "bench"


class ApiServer:
    """Keeps its objects in the etcd it is given; ended on exit."""

    def __init__(self, folder: Path, etcd: Etcd):
        self._folder = folder / f"apiserver-{len(etcd.ports)}"
        self._etcd = etcd
        binary = find_binary("kube-apiserver")
        if binary is None:
            raise EtcdMissing("kube-apiserver is not installed, and `make cluster-build` has not built it")
        self._binary = binary

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._port = free_ports(1)[0]
        tokens, key = self._folder / "tokens", self._folder / "service-account.key"
        tokens.write_text(f"{_TOKEN},bench,bench\n")
        private = rsa.generate_private_key(65_537, 2_048)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._binary, f"--etcd-servers={','.join(f'http://127.0.0.1:{port}' for port in self._etcd.ports)}",
                 "--bind-address=127.0.0.1", f"--secure-port={self._port}", f"--cert-dir={self._folder / 'pki'}",
                 f"--token-auth-file={tokens}", "--authorization-mode=AlwaysAllow",
                 "--service-cluster-ip-range=10.250.0.0/24", "--service-account-issuer=https://bench",
                 f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            wait_for(self._is_ready, "the API server is ready")
        except BaseException:
            end_all([self._process])
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end_all([self._process])

    def make_lease(self, name: str) -> KubernetesLeaseStore:
        """Makes a Lease that nobody holds, as the operator does, and returns the store that keeps it."""
        config = self._folder / "kubeconfig"
        api = pykube.HTTPClient(pykube.KubeConfig.from_file(str(config)))
        kind = pykube.object_factory(api, "coordination.k8s.io/v1", "Lease")
        kind(api, {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {}}).create()
        return lease_store(config, name)

    @property
    def kubeconfig(self) -> Path:
        """How processes reach it."""
        return self._folder / "kubeconfig"

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the API server has ended: {(self._folder / 'log').read_text()[-2000:]}")
        certificate = self._folder / "pki" / "apiserver.crt"
        if not certificate.exists():
            return False
        self.kubeconfig.write_text(json.dumps(_kubeconfig(self._port, certificate)))
        url = f"https://127.0.0.1:{self._port}/readyz"
        try:
            answer = requests.get(
                url, headers={"Authorization": f"Bearer {_TOKEN}"}, verify=str(certificate), timeout=2
            )
        except requests.RequestException:
            return False
        return answer.status_code == 200


def lease_store(kubeconfig: Path, name: str) -> KubernetesLeaseStore:
    """Returns the store of a Lease that is there, as a node uses it."""
    return KubernetesLeaseStore(
        KubernetesLeases(NAMESPACE, configure=lambda: pykube.KubeConfig.from_file(str(kubeconfig))), name
    )


def _kubeconfig(port: int, certificate: Path) -> dict[str, Any]:
    authority = base64.b64encode(certificate.read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "bench",
                "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": authority},
            }
        ],
        "users": [{"name": "bench", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }
