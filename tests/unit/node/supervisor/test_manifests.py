"""Manifests are read as kubectl reads them, and everything wrong with them is said at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentworld_node.supervisor.manifests import Complaint, RefusedManifests, parse_documents, read_manifests
from tests.unit.node.supervisor.fakes import key, world

WORLD = """apiVersion: agentworld.dev/v1alpha1
kind: World
metadata: {name: aurora}
spec:
  validators: {replicas: 4}
"""


def refused(folder: Path, text: str) -> list[Complaint]:
    path = folder / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RefusedManifests) as caught:
        read_manifests([path])
    return list(caught.value.complaints)


def test_folders_files_documents_lists_and_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"---\n{WORLD}---\n# nothing here\n---\n")
    (tmp_path / "b.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [key("k1"), key("k2")]}))
    (tmp_path / "notes.txt").write_text("not a manifest")
    single = tmp_path / "elsewhere"
    single.write_text(json.dumps(key("k3")))

    reading = read_manifests([tmp_path, single])

    assert [item.identity for item in reading.given] == [
        ("World", "aurora"),
        ("MembershipKey", "k1"),
        ("MembershipKey", "k2"),
        ("MembershipKey", "k3"),
    ]
    assert reading.given[0].source == str(tmp_path / "a.yaml")
    assert reading.notices == ()


def test_objects_of_other_apis_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WORLD + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: games}\n")

    reading = read_manifests([tmp_path])

    assert [str(item) for item in reading.given] == ["World aurora"]
    assert reading.notices == (
        f"{tmp_path}/a.yaml: Namespace games is of another API and has no meaning on one machine",
    )


def test_every_violation_of_every_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WORLD.replace("replicas: 4", "replicas: many, spare: 1"))
    (tmp_path / "b.yaml").write_text("kind: [World")
    (tmp_path / "c.yaml").write_text(WORLD.replace("name: aurora", "name: Aurora"))

    with pytest.raises(RefusedManifests) as caught:
        read_manifests([tmp_path, tmp_path / "missing.yaml"])

    text = str(caught.value)
    assert "5 problems" in text
    for part in (
        "a.yaml: World aurora: spec.validators.replicas: must be an integer (got 'many')",
        "spec.validators.spare: is not a field; remove it, or use one of: replicas, template",
        "b.yaml: is not YAML:",
        "c.yaml: World (no name): metadata.name: is not an id (got 'Aurora'); use 1 to 63 lower-case letters",
        "missing.yaml: there is no such file or folder",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just text", "must be a mapping"),
        ("- a\n- b", "must be a mapping"),
        (WORLD.replace("agentworld.dev/v1alpha1", "agentworld.dev/v9"), "is not ours"),
        (WORLD.replace("agentworld.dev", "agentword.dev"), "is not ours"),
        (WORLD.replace("apiVersion: agentworld.dev/v1alpha1", ""), "is required"),
        (WORLD.replace("kind: World", "kind: Wrld"), "is not a choice"),
        (WORLD + "  validators: {replicas: 5}\n", "stands twice"),
        (WORLD + "---\n" + WORLD, "is given twice"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
        ("a: &a [*a]", "refers to itself"),
        ("a: &a {x: {y: *a}}", "refers to itself"),
        ("\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '0'] * 9)}]" for n in range(12)), "too often"),
        ("? [1, 2]\n: 3", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, says: str) -> None:
    complaints = refused(tmp_path, text)

    assert any(says in str(complaint) for complaint in complaints), [str(complaint) for complaint in complaints]


def test_an_empty_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RefusedManifests, match="holds no manifest"):
        read_manifests([tmp_path])


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    assert "larger than" in str(refused(tmp_path, "#" * (4 * 1024 * 1024 + 1))[0])


def test_times_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "key.yaml"
    path.write_text(
        "apiVersion: agentworld.dev/v1alpha1\nkind: MembershipKey\nmetadata: {name: k}\n"
        f"spec: {{world: w, validator: v, revoked: [{{keyId: {'0' * 31}a, at: 2026-01-01T00:00:00Z}}]}}\n"
    )

    assert read_manifests([path]).given[0].manifest["spec"]["revoked"][0]["at"] == "2026-01-01T00:00:00Z"


def test_complaints_survive_the_way_to_the_command_line() -> None:
    with pytest.raises(RefusedManifests) as caught:
        parse_documents([("x.yaml", world(-1))])

    complaint = caught.value.complaints[0]
    again = Complaint.from_dict(json.loads(json.dumps(complaint.as_dict())))
    assert str(again) == str(complaint)
    assert caught.value.as_dict()["complaints"] == [complaint.as_dict()]
