"""Modules that a manifest names for the genesis are found where it says; what is wrong is named with what is right."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import genesis_module
from agentworld_core.hashing import content_id
from agentworld_core.topology.effects import fixed_modules
from agentworld_core.topology.fields import InvalidManifest
from agentworld_core.topology.genesis import build_genesis
from agentworld_core.topology.genesis_modules import Resolved, Source, named_config_maps, names_blobs, resolve_modules
from agentworld_core.topology.plan import plan_world
from agentworld_core.topology.world_spec import GenesisSpec
from tests.unit.core.topology.manifests import world
from tests.unit.core.topology.test_genesis import ROOT, identities

EXAMPLES = Path(__file__).parents[4] / "examples" / "modules"
CODE = (EXAMPLES / "counter" / "counter.wasm").read_bytes()
MANIFEST = json.loads((EXAMPLES / "counter" / "manifest.json").read_text())


def item(module_id: str = "counter", version: str = "1.0.0", **artifact: Any) -> dict[str, Any]:
    reference = artifact or {"configMapKeyRef": {"name": "counter", "key": "counter.wasm"}}
    return {"moduleId": module_id, "version": version, "artifact": reference}


def spec(*items: dict[str, Any]) -> GenesisSpec:
    return world(genesis={"modules": list(items) or [item()]}).spec.genesis


def source(name: str = "counter", /, **files: Any) -> dict[str, Source]:
    """A ConfigMap with these values; ``__`` in a name stands for a dot, a map for its JSON."""
    values = {
        key.replace("__", "."): json.dumps(value).encode() if isinstance(value, dict) else value
        for key, value in files.items()
    }
    return {name: Source(f"ConfigMap {name}", values)}


GOOD = source(counter__wasm=CODE, manifest__json=MANIFEST)


def problem(found: Resolved) -> InvalidField:
    assert len(found.problems) == 1, found.problems
    return found.problems[0]


def test_code_and_manifest_come_from_the_config_map() -> None:
    found = resolve_modules(spec(), config_maps=GOOD)
    assert found == Resolved((genesis_module(MANIFEST, CODE),), ())
    assert named_config_maps(spec()) == ("counter",)


def test_a_manifest_may_be_named_after_its_code_and_need_not_know_the_hash() -> None:
    own = {key: value for key, value in MANIFEST.items() if key != "wasm_hash"}
    found = resolve_modules(
        spec(), config_maps=source(counter__wasm=CODE, manifest__json=b"of another", counter__json=own)
    )
    assert found == Resolved((genesis_module(MANIFEST, CODE),), ())


@pytest.mark.box("S16.1", "in-the-genesis")
def test_a_blob_is_found_by_what_it_is() -> None:
    blobs = spec(item(blob=content_id(CODE)))
    assert names_blobs(blobs)
    assert named_config_maps(blobs) == ()
    others = [*source("a", x=b"else").values(), *source("b", x=CODE, manifest__json=MANIFEST).values()]
    assert resolve_modules(blobs, config_maps={}, others=others).modules == (genesis_module(MANIFEST, CODE),)
    missing = problem(resolve_modules(blobs, config_maps={}, others=others[:1]))
    assert (missing.field, missing.value) == ("spec.genesis.modules[0].artifact.blob", content_id(CODE))
    assert missing.remedy is not None
    assert "agentworld.dev/artifact=true" in missing.remedy


def test_modules_are_in_order_of_their_ids() -> None:
    other = {**MANIFEST, "module_id": "a"}
    maps = {**GOOD, **source("a", counter__wasm=CODE, counter__json=other)}
    where: dict[str, Any] = {"configMapKeyRef": {"name": "a", "key": "counter.wasm"}}
    found = resolve_modules(spec(item(), item("a", **where)), config_maps=maps)
    assert found == Resolved((genesis_module(other, CODE), genesis_module(MANIFEST, CODE)), ())


@pytest.mark.parametrize(
    ("maps", "field", "says"),
    [
        (
            {},
            "spec.genesis.modules[0].artifact.configMapKeyRef.name",
            "no such ConfigMap (got 'counter'); make it: kubectl",
        ),
        (
            source(other=CODE),
            "spec.genesis.modules[0].artifact.configMapKeyRef.key",
            "which holds other (got 'counter.wasm')",
        ),
        (source(counter__wasm=CODE), "spec.genesis.modules[0].artifact", "add the module's manifest as manifest.json"),
        (source(counter__wasm=CODE, manifest__json=b"{"), "manifest.json", "is not JSON"),
        (
            source(counter__wasm=CODE + bytes(2**20), manifest__json=MANIFEST),
            "ConfigMap counter, counter.wasm",
            "may have 917504 bytes together",
        ),
        (source(counter__wasm=CODE, manifest__json=b"\xff"), "manifest.json", "is not text"),
        (source(counter__wasm=CODE, manifest__json=b"[]"), "manifest.json", "must be a map"),
        (source(counter__wasm=CODE, manifest__json=b" " * 70_000), "manifest.json", "no manifest is that large"),
        (source(counter__wasm=CODE, manifest__json={**MANIFEST, "kind": "x"}), "manifest.json.kind", "must be"),
        (
            source(counter__wasm=b"text", manifest__json={**MANIFEST, "wasm_hash": content_id(b"text")}),
            "spec.genesis.modules[0] (counter).code",
            "does not start as a binary WebAssembly module",
        ),
        (
            source(counter__wasm=CODE + b"\0\2\1x", manifest__json=MANIFEST),
            "wasm_hash",
            "is not the code in counter.wasm",
        ),
        (
            source(counter__wasm=CODE, manifest__json={**MANIFEST, "version": "2"}),
            "spec.genesis.modules[0].version",
            "write 2",
        ),
        (
            source(counter__wasm=CODE, manifest__json={**MANIFEST, "module_id": "x"}),
            "spec.genesis.modules[0].moduleId",
            "write x",
        ),
        (
            source(counter__wasm=CODE, manifest__json={**MANIFEST, "limits": {"max_emits": 1000}}),
            "spec.genesis.modules[0] (counter).limits.max_emits",
            "above the maximum of 64",
        ),
        (
            source(counter__wasm=CODE, manifest__json={**MANIFEST, "required_caps": ["purse"]}),
            "spec.genesis.modules[0] (counter).required_caps",
            "there is no capability purse; bring the module in by a proposal",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(maps: dict[str, Source], field: str, says: str) -> None:
    found = problem(resolve_modules(spec(), config_maps=maps))
    assert str(found.field).endswith(field)
    assert says in str(found)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    where: dict[str, Any] = {"configMapKeyRef": {"name": "gone", "key": "x"}}
    found = resolve_modules(spec(item("a", **where), item("b", **where), item()), config_maps=GOOD)
    assert [str(item.field) for item in found.problems] == [
        f"spec.genesis.modules[{n}].artifact.configMapKeyRef.name" for n in (0, 1)
    ]


def test_modules_that_are_too_much_together_are_refused() -> None:
    padded = CODE + b"\0\x82\x80\x20\1x" + bytes(512 * 1024)
    assert len(padded) == len(CODE) + 4 + 2 + 512 * 1024
    maps: dict[str, Source] = {}
    for name in ("a", "b"):
        manifest = {**MANIFEST, "module_id": name, "wasm_hash": content_id(padded)}
        maps |= source(name, x=padded, x__json=manifest)
    items = [item(name, configMapKeyRef={"name": name, "key": "x"}) for name in maps]
    assert resolve_modules(spec(items[0]), config_maps=maps).problems == ()
    found = problem(resolve_modules(spec(*items), config_maps=maps))
    assert found.field == "spec.genesis.modules"
    assert "917504 bytes together" in str(found)


@pytest.mark.parametrize(
    ("artifact", "field"),
    [
        ({"blob": "x"}, "artifact.blob"),
        ({"blob": "0" * 64, "configMapKeyRef": {"name": "a", "key": "b"}}, "artifact"),
        ({"configMapKeyRef": {"name": "a"}}, "artifact.configMapKeyRef.key"),
        ({"configMapKeyRef": {"name": "../a", "key": "b"}}, "artifact.configMapKeyRef.name"),
        ({"configMapKeyRef": {"name": "a", "key": "b/c"}}, "artifact.configMapKeyRef.key"),
        ({"configMapKeyRef": {"name": "a", "key": "b", "optional": True}}, "artifact.configMapKeyRef.optional"),
        ({"url": "x"}, "artifact"),
    ],
)
def test_a_reference_that_means_nothing_is_named(artifact: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        world(genesis={"modules": [item(**artifact)]})
    assert f"spec.genesis.modules[0].{field}" in [violation.field for violation in caught.value.violations]


def test_no_genesis_is_built_without_the_modules_that_it_is_to_have() -> None:
    plan = plan_world(world(genesis={"modules": [item()]}), [], [])
    governance = {"aurora-governance": (ROOT.public_key, 1)}
    with pytest.raises(InvalidField, match="not resolved"):
        build_genesis(plan, identities(plan), governance, created_at_ms=1)
    modules = resolve_modules(plan.world.spec.genesis, config_maps=GOOD).modules
    genesis = build_genesis(plan, identities(plan), governance, created_at_ms=1, modules=modules)
    assert genesis.modules == modules
    assert not fixed_modules(plan.world.spec.genesis, genesis.modules)
    assert fixed_modules(spec(item(version="2")), genesis.modules)
