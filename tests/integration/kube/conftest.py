"""A real API server for the tests of this folder, with no nodes and no controllers behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pykube
import pytest

from tests.chart.api_server import ApiServer, api_server, programs

NAMESPACE = "default"
VERBS = ("get", "watch", "update")
"""What a node uses of its rights on Leases."""
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


@dataclasses.dataclass(frozen=True)
class Kubernetes:
    """The API server as its administrator sees it, and configurations for those who use it."""

    api: ApiServer
    certificate: Path

    def config(self, token: str = "") -> pykube.KubeConfig:
        """What a pod with this token, or the administrator, would read."""
        return pykube.KubeConfig(self.api.kubeconfig(self.certificate, token=token, namespace=NAMESPACE))

    def make_lease(self, name: str, **spec: Any) -> None:
        """Makes a Lease as the operator does, for somebody to take."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "labels": {"agentworld.dev/world": "aurora"}},
            "spec": spec,
        }
        answer = self.api.call("POST", LEASES, body)
        assert answer.code == 201, answer.message

    def lease(self, name: str) -> dict[str, Any]:
        answer = self.api.call("GET", f"{LEASES}/{name}")
        assert answer.code == 200, answer.message
        return answer.body

    def token_for(self, account: str, *, leases: list[str], verbs: Sequence[str] = VERBS) -> str:
        """The token of a service account with the rights of a node on these Leases, and no others."""
        base = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
        rules = [
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": leases,
                "verbs": list(verbs),
            }
        ]
        subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
        for path, body in (
            (base, {"metadata": {"name": account}}),
            (f"{rbac}/roles", {"metadata": {"name": account}, "rules": rules}),
            (f"{rbac}/rolebindings", {"metadata": {"name": account}, "subjects": [subject], "roleRef": reference}),
        ):
            answer = self.api.call("POST", path, body)
            assert answer.code == 201, answer.message
        answer = self.api.call("POST", f"{base}/{account}/token", {"spec": {"expirationSeconds": 600}})
        assert answer.code == 201, answer.message
        return str(answer.body["status"]["token"])


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    binaries = programs()
    if binaries is None:
        pytest.skip("no kube-apiserver here: `hack/cluster/cluster build` makes one")
    home = tmp_path_factory.mktemp("api-server")
    with api_server(binaries, home) as server:
        yield Kubernetes(server, home / "certificates" / "apiserver.crt")
