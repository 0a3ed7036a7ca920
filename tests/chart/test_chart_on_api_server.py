"""What a real API server makes of the chart: its objects, its rights, and its pods under Pod Security."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.api_server import ApiServer
from tests.chart.helm import NAME, NAMESPACE, VALUES, of_kind, only, pods, render

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/namespaces/{{namespace}}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{{namespace}}/rolebindings",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
LEASES = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "watch", "update", "patch"]}


def place(manifest: dict[str, Any]) -> str:
    path = PATHS[manifest["kind"]].format(namespace=manifest["metadata"].get("namespace", NAMESPACE))
    return f"{path}/{manifest['metadata']['name']}"


@pytest.fixture(scope="module")
def cluster(api: ApiServer) -> ApiServer:
    """An API server with the namespaces of our values files; that of the release admits only restricted pods."""
    for name, labels in ((NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"}), ("staging", {})):
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        assert api.apply(f"/api/v1/namespaces/{name}", manifest).code in (200, 201)
    return api


@pytest.fixture
def rights(cluster: ApiServer, request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """The roles and bindings of a values file are in force."""
    objects = of_kind(render(request.param), "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    try:
        for manifest in objects:
            answer = cluster.apply(place(manifest), manifest)
            assert answer.code in (200, 201), answer.message
        yield cluster
    finally:
        for manifest in objects:
            cluster.call("DELETE", place(manifest))


@pytest.mark.parametrize("values", VALUES)
def test_every_object_is_taken(cluster: ApiServer, values: str) -> None:
    for manifest in render(values):
        if manifest["kind"] == "ServiceMonitor":
            continue
        answer = cluster.call(
            "PATCH",
            f"{place(manifest)}?dryRun=All&fieldManager=tests&force=true&fieldValidation=Strict",
            manifest,
            content="application/apply-patch+yaml",
        )
        assert answer.code in (200, 201), f"{manifest['kind']}: {answer.message}"


@pytest.mark.parametrize("values", VALUES)
def test_pods_are_admitted_where_only_restricted_ones_are(cluster: ApiServer, values: str) -> None:
    for name, spec in pods(render(values)).items():
        # The class is the cluster's own business and does not exist here.
        bare = {key: value for key, value in copy.deepcopy(spec).items() if key != "priorityClassName"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-0"}, "spec": bare}
        answer = cluster.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", pod)
        assert answer.code == 201, answer.message


def test_other_pods_are_not_admitted_there(cluster: ApiServer) -> None:
    """Shows that the test above can fail."""
    spec = copy.deepcopy(pods(render())[NAME])
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": spec}
    answer = cluster.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", pod)
    assert answer.code == 403
    assert "allowPrivilegeEscalation" in answer.message


def may(cluster: ApiServer, verb: str, resource: str, namespace: str, group: str = "") -> bool:
    name, _, sub = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": sub, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "resourceAttributes": attributes},
    }
    answer = cluster.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer.body["status"]["allowed"])


def role(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": list(rules)}


def as_operator(cluster: ApiServer, manifest: dict[str, Any]) -> tuple[int, str]:
    """Applies a manifest with the operator's rights, without effect."""
    answer = cluster.call(
        "PATCH",
        f"{place(manifest)}?dryRun=All&fieldManager=operator&force=true",
        manifest,
        content="application/apply-patch+yaml",
        user=ACCOUNT,
    )
    return answer.code, answer.message


@pytest.mark.parametrize("rights", [""], indirect=True, ids=["all namespaces"])
def test_the_operator_may_work_everywhere(rights: ApiServer) -> None:
    for namespace in (NAMESPACE, "staging", "elsewhere"):
        assert may(rights, "patch", "worlds/status", namespace, "agentworld.dev")
        assert may(rights, "create", "pods", namespace)
        assert not may(rights, "create", "pods/exec", namespace)
        assert not may(rights, "delete", "worlds", namespace, "agentworld.dev")
        assert not may(rights, "update", "nodes", namespace)


@pytest.mark.parametrize("rights", ["namespaced"], indirect=True, ids=["two namespaces"])
def test_the_operator_may_work_in_its_namespaces_only(rights: ApiServer) -> None:
    for namespace in (NAMESPACE, "staging"):
        assert may(rights, "list", "secrets", namespace)
        assert may(rights, "patch", "worlds/status", namespace, "agentworld.dev")
    for namespace in ("elsewhere", ""):
        assert not may(rights, "list", "secrets", namespace)
        assert not may(rights, "get", "worlds", namespace, "agentworld.dev")


@pytest.mark.parametrize("rights", ["", "namespaced"], indirect=True, ids=["all namespaces", "two namespaces"])
def test_the_operator_can_hand_out_leases_and_nothing_it_lacks(rights: ApiServer) -> None:
    own = {**LEASES, "resourceNames": ["aurora-0", "aurora-sequencer"]}
    code, message = as_operator(rights, role("aurora-0", own))
    assert code == 201, message
    code, message = as_operator(
        rights, role("up", {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]})
    )
    assert code == 403
    assert "attempting to grant RBAC permissions not currently held" in message


@pytest.mark.parametrize("rights", [""], indirect=True, ids=["all namespaces"])
def test_the_operator_can_bind_the_role_of_a_node(rights: ApiServer) -> None:
    made = role("aurora-1", {**LEASES, "resourceNames": ["aurora-1"]})
    binding = {
        **made,
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "aurora-1"},
        "subjects": [{"kind": "ServiceAccount", "name": "aurora-1", "namespace": NAMESPACE}],
    }
    del binding["rules"]
    assert rights.apply(place(made), made).code == 201
    try:
        code, message = as_operator(rights, binding)
        assert code == 201, message
    finally:
        rights.call("DELETE", place(made))


def test_each_role_of_the_chart_is_bound_or_aggregated() -> None:
    objects = render()
    bound = {binding["roleRef"]["name"] for binding in of_kind(objects, "ClusterRoleBinding")}
    aggregated = {f"{NAME}-{word}" for word in ("view", "edit", "admin")}
    assert {each["metadata"]["name"] for each in of_kind(objects, "ClusterRole")} == bound | aggregated
    assert only(objects, "ClusterRoleBinding")["subjects"][0]["namespace"] == NAMESPACE
