"""Pods of the chart are restricted as Pod Security wants it; its roles hold what is needed and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.crd import FILES, crd
from tests.chart.helm import NAME, NAMESPACE, VALUES, of_kind, only, pods, render

RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
HOST_FIELDS = {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}
ROLES = ("Role", "ClusterRole")


def each_pod() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{values or 'default'} {name}", spec) for values in VALUES for name, spec in pods(render(values)).items()]


def each_container() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [
        (where, spec, container)
        for where, spec in each_pod()
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for container in spec.get(kind, [])
    ]


def test_pods_are_restricted() -> None:
    for where, spec in each_pod():
        assert not HOST_FIELDS & set(spec), where
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"sysctls", "seLinuxOptions", "windowsOptions"} & set(spec["securityContext"]), where
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES, where


def test_containers_are_restricted() -> None:
    assert each_container()
    for where, _, container in each_container():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, where
        assert context["privileged"] is False, where
        assert context["readOnlyRootFilesystem"] is True, where
        assert context["runAsNonRoot"] is True, where
        assert context["runAsUser"] >= 10_000, where
        assert context["capabilities"] == {"drop": ["ALL"]}, where
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert all("hostPort" not in port for port in container.get("ports", [])), where


def test_containers_have_requests_and_limits() -> None:
    for where, _, container in each_container():
        for side in ("requests", "limits"):
            assert set(container["resources"][side]) >= {"cpu", "memory"}, where


def test_what_is_writable_has_a_size() -> None:
    for where, spec in each_pod():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert all("sizeLimit" in volume["emptyDir"] for volume in volumes.values() if "emptyDir" in volume), where
        for mount in spec["containers"][0]["volumeMounts"]:
            assert mount.get("readOnly") or "emptyDir" in volumes[mount["name"]], where


def test_the_operator_is_probed() -> None:
    for values in VALUES:
        container = next(iter(of_kind(render(values), "Deployment")))["spec"]["template"]["spec"]["containers"][0]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_a_token_is_mounted_only_by_name() -> None:
    assert only(render(), "ServiceAccount")["automountServiceAccountToken"] is False
    for where, spec in each_pod():
        assert spec["automountServiceAccountToken"] is False, where
        tokens = [
            source["serviceAccountToken"]
            for volume in spec["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        ]
        assert [token["expirationSeconds"] for token in tokens] == [3600], where


def test_nothing_secret_is_in_the_environment() -> None:
    for where, _, container in each_container():
        for entry in container["env"]:
            assert "secretKeyRef" not in entry.get("valueFrom", {}), where


def test_the_operator_has_a_network_policy_both_ways() -> None:
    policy = only(render(), "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    labels = only(render(), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["probes"]
    names, server, worlds = policy["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert {port["port"] for port in server["ports"]} == {443, 6443}
    assert worlds["to"][0]["podSelector"] == {
        "matchExpressions": [{"key": "agentworld.dev/world", "operator": "Exists"}]
    }


def every_rule(values: str) -> list[tuple[str, dict[str, Any]]]:
    return [(role["metadata"]["name"], rule) for role in of_kind(render(values), *ROLES) for rule in role["rules"]]


@pytest.mark.parametrize("values", VALUES)
def test_roles_have_no_wildcards_and_no_ways_up(values: str) -> None:
    for name, rule in every_rule(values):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], name
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), name
        assert not {"pods/exec", "pods/attach", "pods/portforward", "pods/log", "nodes"} & set(rule["resources"]), name
        assert "nonResourceURLs" not in rule, name


def verbs(rules: list[dict[str, Any]], group: str, resource: str) -> set[str]:
    return {
        verb for rule in rules if group in rule["apiGroups"] and resource in rule["resources"] for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    ("group", "resource", "wanted"),
    [
        ("agentworld.dev", "worlds", "get list watch patch"),
        ("agentworld.dev", "worlds/status", "get patch"),
        ("agentworld.dev", "worlds/finalizers", "update"),
        ("agentworld.dev", "validators", "get list watch create patch delete"),
        ("agentworld.dev", "membershipkeys", "get list watch create patch delete"),
        ("", "pods", "get list watch create patch delete"),
        ("", "persistentvolumeclaims", "get list watch create patch delete"),
        ("", "secrets", "get list watch create patch delete"),
        ("", "events", "create patch"),
        ("events.k8s.io", "events", "create patch"),
        ("apps", "deployments", "get list watch create patch delete"),
        ("policy", "poddisruptionbudgets", "get list watch create patch delete"),
        ("networking.k8s.io", "networkpolicies", "get list watch create patch delete"),
        ("rbac.authorization.k8s.io", "roles", "get list watch create patch delete"),
        ("coordination.k8s.io", "leases", "get list watch create update patch delete"),
    ],
)
def test_the_operator_holds_exactly(group: str, resource: str, wanted: str) -> None:
    assert verbs(only(render(), "ClusterRole", NAME)["rules"], group, resource) == set(wanted.split())


def test_with_namespaces_the_operator_has_no_right_outside() -> None:
    objects = render("namespaced")
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    assert [role["metadata"]["namespace"] for role in of_kind(objects, "Role")] == ["agents", "staging"]
    assert [binding["metadata"]["namespace"] for binding in of_kind(objects, "RoleBinding")] == ["agents", "staging"]
    for role in of_kind(objects, "Role"):
        assert role["rules"] == only(render(), "ClusterRole", NAME)["rules"]


@pytest.mark.parametrize("values", VALUES)
def test_bindings_bind_the_operators_account_to_a_role_that_exists(values: str) -> None:
    objects = render(values)
    account = only(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
        only(
            [o for o in objects if o["metadata"].get("namespace") == binding["metadata"].get("namespace")],
            binding["roleRef"]["kind"],
            binding["roleRef"]["name"],
        )


def test_users_get_our_kinds_through_the_clusters_own_roles() -> None:
    plurals = {crd(kind)["spec"]["names"]["plural"] for kind in FILES}
    granted = {}
    for word in ("view", "edit", "admin"):
        role = only(render(), "ClusterRole", f"{NAME}-{word}")
        assert role["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{word}"] == "true"
        granted[word] = role["rules"]
    for plural in plurals:
        assert verbs(granted["view"], "agentworld.dev", plural) == {"get", "list", "watch"}
    assert "create" in verbs(granted["edit"], "agentworld.dev", "worlds")
    assert "patch" in verbs(granted["edit"], "agentworld.dev", "worlds/scale")
    assert verbs(granted["edit"], "agentworld.dev", "membershipkeys") == set()
    assert "patch" in verbs(granted["admin"], "agentworld.dev", "membershipkeys")
    written = {verb for rules in granted.values() for rule in rules for verb in rule["verbs"] if "/status" in str(rule)}
    assert written == {"get", "list", "watch"}


def test_roles_can_be_left_out() -> None:
    assert of_kind(render("", "rbac.create=false"), *ROLES, "RoleBinding", "ClusterRoleBinding") == []
