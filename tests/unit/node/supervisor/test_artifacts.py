"""On one machine the modules of a genesis come from ConfigMaps among the manifests, or from files beside them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import GenesisModule, genesis_module
from agentworld_core.hashing import content_id
from agentworld_node.sandbox import WasmSandbox
from agentworld_node.supervisor.artifacts import find_modules
from agentworld_node.supervisor.manifests import Reading, RefusedManifests, read_manifests

EXAMPLE = Path(__file__).parents[4] / "examples" / "modules" / "counter"
CODE = (EXAMPLE / "counter.wasm").read_bytes()
TEXT = (EXAMPLE / "manifest.json").read_text()
MODULE = genesis_module(json.loads(TEXT), CODE)
BY_NAME = {"configMapKeyRef": {"name": "counter", "key": "counter.wasm"}}
BY_HASH = {"blob": content_id(CODE)}


def world(artifact: dict[str, Any]) -> dict[str, Any]:
    module = {"moduleId": "counter", "version": "1.0.0", "artifact": artifact}
    return {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": "World",
        "metadata": {"name": "aurora"},
        "spec": {"genesis": {"modules": [module]}},
    }


def config_map(name: str = "counter", **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"manifest.json": TEXT},
        "binaryData": {"counter.wasm": base64.encodebytes(CODE).decode()},
        **fields,
    }


def read(folder: Path, *documents: dict[str, Any]) -> Reading:
    for number, document in enumerate(documents):
        (folder / f"{number}.json").write_text(json.dumps(document))
    return read_manifests([folder / f"{number}.json" for number in range(len(documents))])


def found(reading: Reading, folder: Path) -> tuple[tuple[GenesisModule, ...], tuple[InvalidField, ...]]:
    resource = reading.given[0].resource
    return find_modules(resource.spec.genesis, reading.config_maps, folder, sandbox=WasmSandbox())  # type: ignore[union-attr]


def place(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "counter.wasm").write_bytes(CODE)
    (folder / "counter.json" if folder.name == "flat" else folder / "manifest.json").write_text(TEXT)


def test_a_config_map_among_the_manifests_is_used_and_not_complained_of(tmp_path: Path) -> None:
    reading = read(tmp_path, world(BY_NAME), config_map(), config_map("another"))
    assert found(reading, tmp_path) == ((MODULE,), ())
    assert reading.notices == (
        f"{tmp_path}/2.json: ConfigMap another is of another API and has no meaning on one machine",
    )


def test_a_folder_beside_the_manifest_stands_for_the_config_map_of_its_name(tmp_path: Path) -> None:
    place(tmp_path / "counter")
    assert found(read(tmp_path, world(BY_NAME)), tmp_path) == ((MODULE,), ())


def test_the_key_may_have_any_name(tmp_path: Path) -> None:
    place(tmp_path / "counter")
    (tmp_path / "counter" / "counter.wasm").rename(tmp_path / "counter" / "code")
    reading = read(tmp_path, world({"configMapKeyRef": {"name": "counter", "key": "code"}}))
    assert found(reading, tmp_path) == ((MODULE,), ())


@pytest.mark.parametrize("fields", [{"data": [1]}, {"metadata": 1}, {"metadata": {"name": ["x"], "labels": 1}}])
def test_a_config_map_that_nobody_wants_is_not_looked_into(tmp_path: Path, fields: dict[str, Any]) -> None:
    reading = read(tmp_path, world(BY_HASH), config_map(**fields))
    assert reading.config_maps == ()
    assert len(reading.notices) == 1


def test_a_config_map_goes_before_a_folder(tmp_path: Path) -> None:
    (tmp_path / "counter").mkdir()
    assert found(read(tmp_path, world(BY_NAME), config_map()), tmp_path) == ((MODULE,), ())


@pytest.mark.box("S16.1", "in-the-genesis")
@pytest.mark.parametrize("where", ["counter", "elsewhere"])
def test_a_blob_is_found_in_a_folder_of_any_name(tmp_path: Path, where: str) -> None:
    place(tmp_path / where)
    assert found(read(tmp_path, world(BY_HASH)), tmp_path) == ((MODULE,), ())


def test_a_blob_is_found_beside_the_manifest(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    place(flat)
    assert found(read(flat, world(BY_HASH)), flat) == ((MODULE,), ())


def test_a_blob_is_found_in_a_config_map_with_the_label(tmp_path: Path) -> None:
    label = {"name": "x", "labels": {"agentworld.dev/artifact": "true"}}
    assert found(read(tmp_path, world(BY_HASH), config_map(metadata=label)), tmp_path) == ((MODULE,), ())
    bare = tmp_path / "bare"
    bare.mkdir()
    modules, problems = found(read(bare, world(BY_HASH), config_map()), bare)
    assert modules == ()
    assert [problem.field for problem in problems] == ["spec.genesis.modules[0].artifact.blob"]


@pytest.mark.box("S16.1", "missing")
def test_what_is_missing_is_named_with_the_way_to_have_it(tmp_path: Path) -> None:
    modules, problems = found(read(tmp_path, world(BY_NAME)), tmp_path)
    assert modules == ()
    assert "a folder counter beside the World's manifest" in str(problems[0])


def test_code_that_only_the_engine_can_judge_is_refused_as_well(tmp_path: Path) -> None:
    body = CODE.rindex(b"\x0b")  # the end of the last function
    broken = CODE[:body] + b"\x00" + CODE[body + 1 :]
    manifest = {key: value for key, value in json.loads(TEXT).items() if key != "wasm_hash"}
    place(tmp_path / "counter")
    (tmp_path / "counter" / "counter.wasm").write_bytes(broken)
    (tmp_path / "counter" / "manifest.json").write_text(json.dumps(manifest))
    _, problems = found(read(tmp_path, world(BY_NAME)), tmp_path)
    assert "is not a module of the features that are on" in str(problems[0])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"binaryData": {"counter.wasm": "!"}}, "binaryData.counter.wasm"),
        ({"data": {"a": 1}}, "data.a"),
        ({"data": [1]}, "data"),
    ],
)
def test_a_config_map_that_is_none_is_refused(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedManifests) as caught:
        read(tmp_path, world(BY_NAME), config_map(**fields))
    assert [(item.subject, item.error.field) for item in caught.value.complaints] == [("ConfigMap counter", named)]
