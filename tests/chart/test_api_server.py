"""A real API server takes the definitions (structure, CEL cost) and judges every case as our stand-in does."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart.api_server import GROUP, Answer, ApiServer, plural
from tests.chart.cases import CASES, LARGEST, Case
from tests.chart.crd import ROOT, stored


def collection(manifest: dict[str, Any], namespace: str = "default") -> str:
    return f"{GROUP}/namespaces/{namespace}/{plural(manifest['kind'])}"


def create(server: ApiServer, manifest: dict[str, Any], status: dict[str, Any] | None = None) -> Answer:
    answer = server.call("POST", collection(manifest), manifest)
    if answer.code != 201 or not status:
        return answer
    path = f"{collection(manifest)}/{manifest['metadata']['name']}/status"
    reported = server.call("PUT", path, {**answer.body, "status": status})
    assert reported.code == 200, reported.message
    return reported


def judge(server: ApiServer, case: Case) -> Answer:
    """Creates the manifest, or creates what is before it and replaces that; leaves nothing behind."""
    path = f"{collection(case.manifest)}/{case.manifest['metadata']['name']}"
    try:
        if case.before is None:
            return create(server, case.manifest)
        begun = create(server, case.before, case.before.get("status"))
        assert begun.code in (200, 201), begun.message
        return server.call("PUT", path, {**begun.body, "spec": case.manifest["spec"]})
    finally:
        server.call("DELETE", path)


@pytest.mark.parametrize("case", [*CASES, *LARGEST], ids=lambda case: case.name)
def test_the_real_server_says_the_same(api: ApiServer, case: Case) -> None:
    answer = judge(api, case)
    if case.says:
        assert answer.code == 422, answer.message
        assert case.says in answer.message
    else:
        assert answer.code in (200, 201), answer.message
        assert answer.body["spec"] == stored(case.manifest)["spec"]


def test_the_examples_are_taken_strictly(api: ApiServer) -> None:
    for path in [
        *sorted((ROOT / "examples" / "kubernetes").glob("*.yaml")),
        ROOT / "examples" / "modules" / "world.yaml",
    ]:
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            query = "?fieldValidation=Strict&dryRun=All"
            answer = api.call("POST", collection(manifest) + query, manifest)
            assert answer.code == 201, answer.message


def test_kubectl_get_shows_the_columns(api: ApiServer) -> None:
    conditions = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Test",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    status = {
        "conditions": conditions,
        "phase": "Running",
        "validators": {"ready": 3, "desired": 4, "summary": "3/4"},
        "head": {"height": 7, "stateRoot": "ab" * 32},
        "sequencer": {"holder": "columns-2"},
        "directory": {"epoch": 5},
        "revokedKeys": 1,
        "deadLetters": 2,
    }
    manifest = {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": "World",
        "metadata": {"name": "columns"},
        "spec": {"validators": {"replicas": 4}},
    }
    create(api, manifest, status)
    try:
        table = as_table(api, f"{collection(manifest)}/columns")
    finally:
        api.call("DELETE", f"{collection(manifest)}/columns")
    shown = {name: cell for name, cell in table.items() if name != "Age"}
    assert shown == {
        "Name": "columns", "Ready": "True", "Phase": "Running", "Validators": "3/4", "Height": 7, "Writer": "columns-2",
        "State root": "ab" * 32, "Epoch": 5, "Revoked": 1, "Dead letters": 2,
    }  # fmt: skip
    assert "Age" in table


def as_table(server: ApiServer, path: str) -> dict[str, Any]:
    """The row that kubectl would print, by the names of its columns."""
    answer = server.call("GET", path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    names = [column["name"] for column in answer.body["columnDefinitions"]]
    return dict(zip(names, answer.body["rows"][0]["cells"], strict=True))


def test_scale_changes_the_validators(api: ApiServer) -> None:
    manifest = {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": "World",
        "metadata": {"name": "scaled"},
        "spec": {"validators": {"replicas": 4}},
    }
    create(api, manifest, {"validators": {"ready": 3}, "selector": "agentworld.dev/world=scaled"})
    path = f"{collection(manifest)}/scaled"
    try:
        scale = api.call("GET", f"{path}/scale").body
        assert scale["spec"] == {"replicas": 4}
        assert scale["status"] == {"replicas": 3, "selector": "agentworld.dev/world=scaled"}
        scaled = api.call("PUT", f"{path}/scale", {**scale, "spec": {"replicas": 5}})
        assert scaled.code == 200, scaled.message
        assert api.call("GET", path).body["spec"]["validators"]["replicas"] == 5
        refused = api.call("PUT", f"{path}/scale", {**scaled.body, "spec": {"replicas": 1000}})
        assert refused.code == 422
    finally:
        api.call("DELETE", path)


def test_a_status_field_that_the_definitions_do_not_know_is_dropped_and_a_patch_of_nothing_else_changes_nothing(
    api: ApiServer,
) -> None:
    """What the operator goes by when its definitions are of an older release."""
    manifest = {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": "World",
        "metadata": {"name": "older"},
        "spec": {"validators": {"replicas": 4}},
    }
    row = {"hash": "a" * 64, "height": 1, "validator": "v0"}
    path = f"{collection(manifest)}/older"
    try:
        before = create(api, manifest, {"evidence": [row]}).body
        patch = {"status": {"evidence": [row | {"fromTheFuture": "x"}]}}
        answer = api.call("PATCH", f"{path}/status", patch, content="application/merge-patch+json")
        assert answer.code == 200, answer.message
        assert answer.body["status"] == before["status"]
        assert answer.body["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    finally:
        api.call("DELETE", path)
