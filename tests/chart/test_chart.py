"""The chart renders, says no to typos, and its parts agree with each other and with its README."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate
import pytest

from tests.chart.crd import FILES, ROOT, crd
from tests.chart.helm import CHART, NAME, NAMESPACE, VALUES, arguments, helm, of_kind, only, read, refusal, render

OLDEST = "1.29.0"  # kubeVersion of Chart.yaml
FOREIGN = {"ServiceMonitor"}


@pytest.mark.parametrize("values", VALUES)
def test_lint_is_strict_and_clean(values: str) -> None:
    result = helm("lint", "--strict", str(CHART), *arguments(values))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("version", [OLDEST, "1.37.0"])
def test_every_object_is_what_kubernetes_expects(values: str, version: str) -> None:
    for manifest in render(values):
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("values", VALUES)
def test_objects_carry_the_standard_labels(values: str) -> None:
    for manifest in render(values):
        labels = manifest["metadata"]["labels"]
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"} <= set(labels)


@pytest.mark.parametrize("values", VALUES)
def test_no_two_objects_share_a_name(values: str) -> None:
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in render(values)]
    assert len(names) == len(set(names))


def test_the_kubernetes_version_is_the_tested_one() -> None:
    assert read(CHART / "Chart.yaml")["kubeVersion"] == f">={OLDEST}-0"


def test_generated_copies_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "hack" / "generate-chart-crds"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_crds_are_the_same_as_in_the_repository() -> None:
    rendered = {m["metadata"]["name"]: m["spec"] for m in of_kind(render(), "CustomResourceDefinition")}
    assert rendered == {crd(kind)["metadata"]["name"]: crd(kind)["spec"] for kind in FILES}


def test_crds_are_kept_unless_told_otherwise() -> None:
    policy = "helm.sh/resource-policy"
    for manifest in of_kind(render(), "CustomResourceDefinition"):
        assert manifest["metadata"]["annotations"] == {policy: "keep"}
    for manifest in of_kind(render("full"), "CustomResourceDefinition"):
        assert policy not in manifest["metadata"].get("annotations", {})
    assert of_kind(render("namespaced"), "CustomResourceDefinition") == []


def environment(manifest: dict[str, Any]) -> dict[str, Any]:
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_operator_is_told_where_it_is_and_what_to_run() -> None:
    told = environment(only(render(), "Deployment"))
    assert told["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert told["NODE_IMAGE"] == "agent-world/node:0.1.0"
    assert told["NODE_IMAGE_PULL_POLICY"] == "IfNotPresent"
    assert told["WATCH_NAMESPACES"] == ""
    assert environment(only(render("namespaced"), "Deployment"))["WATCH_NAMESPACES"] == "agents,staging"


def test_images_by_registry_tag_and_digest() -> None:
    deployment = only(render("full"), "Deployment")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example/agent-world/operator:1.2.3"
    assert environment(deployment)["NODE_IMAGE"] == f"mirror.example/agent-world/node@sha256:{'0' * 64}"


def test_there_is_one_operator_and_never_two() -> None:
    spec = only(render(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_selectors_hold_only_what_never_changes() -> None:
    spec = only(render("full"), "Deployment")["spec"]
    selector = {"app.kubernetes.io/name": "worlds", "app.kubernetes.io/instance": "r"}
    assert spec["selector"]["matchLabels"] == selector
    assert selector.items() <= spec["template"]["metadata"]["labels"].items()


def test_a_new_chart_version_alone_does_not_restart_the_operator() -> None:
    template = json.dumps(only(render(), "Deployment")["spec"]["template"])
    assert "helm.sh/chart" not in template
    assert "app.kubernetes.io/version" not in template


def test_probes_and_metrics_meet_at_one_port() -> None:
    container = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert [(port["name"], port["containerPort"]) for port in container["ports"]] == [("probes", 8080)]
    paths = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "probes"},
        "livenessProbe": {"path": "/livez", "port": "probes"},
        "readinessProbe": {"path": "/readyz", "port": "probes"},
    }
    assert only(render(), "Service")["spec"]["ports"][0]["targetPort"] == "probes"


def test_a_service_monitor_only_on_request() -> None:
    assert of_kind(render(), "ServiceMonitor") == []
    monitor = only(render("metrics"), "ServiceMonitor")
    service = only(render("metrics"), "Service", f"{NAME}-metrics")
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_service_selects_the_operator_and_not_its_check() -> None:
    selector = only(render(), "Service")["spec"]["selector"].items()
    assert selector <= only(render(), "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= only(render(), "Pod")["metadata"]["labels"].items()


def test_the_helm_test_runs_the_operators_check() -> None:
    pod = only(render(), "Pod")
    deployment = only(render(), "Deployment")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["args"] == ["check"]
    assert pod["spec"]["containers"][0]["image"] == deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert pod["spec"]["serviceAccountName"] == deployment["spec"]["template"]["spec"]["serviceAccountName"]


def test_notes_name_the_next_two_commands() -> None:
    notes = helm("install", "r", str(CHART), "--dry-run=client", "--namespace", NAMESPACE).stdout.partition("NOTES:")[2]
    assert "kubectl apply -f -" in notes
    assert "kubectl get aw --watch" in notes
    for line in (ROOT / "examples" / "kubernetes" / "world.yaml").read_text(encoding="utf-8").splitlines():
        assert line in notes


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("operatr.logLevel=debug", "operatr"),
        ("operator.logLevl=debug", "logLevl"),
        ("operator.resources.limits.gpu=1", "gpu"),
        ("operator.affinity.nodeAfinity.x=1", "nodeAfinity"),
        ("image.digest=latest", "digest"),
        ("operator.logLevel=loud", "logLevel"),
        ("watchNamespaces={A}", "watchNamespaces"),
        ("watchNamespaces={a,a}", "watchNamespaces"),
        ("crds.keep=yes please", "keep"),
        ("serviceAccount.create=false", "serviceAccount"),
        ("networkPolicy.apiServerPorts={0}", "apiServerPorts"),
    ],
)
def test_the_schema_refuses_what_it_does_not_know(setting: str, says: str) -> None:
    assert says in refusal(setting)


def test_the_schema_of_values_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))


def test_no_object_of_the_schema_is_open() -> None:
    def walk(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        if node.get("type") == "object":
            closed = node.get("additionalProperties")
            assert closed is False or closed == {"type": "string"}, path
            assert closed is not False or node["properties"], path
        for name in ("properties", "$defs"):
            for key, child in node.get(name, {}).items():
                walk(child, f"{path}/{name}/{key}")
        walk(node.get("items"), f"{path}/items")

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert schema["type"] == "object"
    walk(schema, "")


def leaves(values: Any, path: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return {key: leaf for name, child in values.items() for key, leaf in leaves(child, f"{path}.{name}").items()}
    return {path.removeprefix("."): values}


def test_every_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for path in leaves(read(CHART / "values.yaml")):
        node = schema
        for name in path.split("."):
            node = node["properties"][name]
            node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def test_the_readme_lists_every_value_with_its_default() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| \S", readme, re.MULTILINE)
    documented = {name: json.loads(default) for name, default in rows}
    assert documented == leaves(read(CHART / "values.yaml"))
