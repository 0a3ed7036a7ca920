"""A World on Kubernetes begins with modules from ConfigMaps, says what is wrong with them, and keeps them for ever."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.genesis_module import genesis_module
from agentworld_core.hashing import content_id
from tests.unit.operator.harness import Harness

EXAMPLE = Path(__file__).parents[3] / "examples" / "modules" / "counter"
CODE = (EXAMPLE / "counter.wasm").read_bytes()
TEXT = (EXAMPLE / "manifest.json").read_text()
MODULE = genesis_module(json.loads(TEXT), CODE)
REFERENCE = {"configMapKeyRef": {"name": "counter", "key": "counter.wasm"}}


def config_map(
    name: str = "counter", *, code: bytes = CODE, text: str = TEXT, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """What ``kubectl create configmap NAME --from-file=counter.wasm --from-file=manifest.json`` makes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "data": {"manifest.json": text},
        "binaryData": {"counter.wasm": base64.b64encode(code).decode()},
    }


def beginning(artifact: dict[str, Any] | None = None) -> Harness:
    harness = Harness()
    modules = [{"moduleId": "counter", "version": "1.0.0", "artifact": artifact or REFERENCE}]
    harness.apply("World", "aurora", validators={"replicas": 4}, genesis={"modules": modules})
    return harness


def put(harness: Harness, obj: dict[str, Any]) -> None:
    if ("ConfigMap", "default", obj["metadata"]["name"]) in harness.kube.objects:
        harness.kube.remove("ConfigMap", obj["metadata"]["name"])
    harness.kube.put(obj)


async def test_the_genesis_has_the_modules_and_outlives_their_config_map() -> None:
    harness = beginning()
    put(harness, config_map())
    await harness.settle()
    assert harness.world["phase"] == "Ready"
    assert harness.nodes.document is not None
    assert harness.nodes.document.modules == (MODULE,)
    assert harness.condition("World", "aurora", "FieldsEffective") == ("True", "AsExpected")

    known = harness.world["genesisHash"]
    harness.kube.remove("ConfigMap", "counter")
    harness.kube.remove("ConfigMap", "aurora-genesis")
    await harness.settle()
    assert (harness.world["phase"], harness.world["genesisHash"]) == ("Ready", known)
    assert harness.kube.read("ConfigMap", "aurora-genesis")["binaryData"], "it came back from the nodes, code and all"


async def test_a_blob_is_looked_for_where_the_label_says() -> None:
    harness = beginning({"blob": content_id(CODE)})
    put(harness, config_map("unlabelled"))
    await harness.once()
    assert "has this content id in 0 places" in harness.message("World", "aurora", "Ready")
    put(harness, config_map("labelled", labels={"agentworld.dev/artifact": "true"}))
    await harness.settle()
    assert harness.world["phase"] == "Ready"
    assert harness.nodes.document is not None
    assert harness.nodes.document.modules == (MODULE,)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (None, "configMapKeyRef.name: there is no such ConfigMap (got 'counter'); make it: kubectl create configmap"),
        ({**config_map(), "binaryData": {}}, "is not in ConfigMap counter, which holds manifest.json"),
        (
            {**config_map(), "binaryData": {"counter.wasm": "!"}},
            "is not in ConfigMap counter, which holds manifest.json",
        ),
        ({**config_map(), "data": {}}, "add the module's manifest as manifest.json"),
        (config_map(text="{"), "ConfigMap counter, manifest.json: is not JSON"),
        (config_map(text=TEXT.replace("wasm-1", "wasm-2")), "interface_version"),
        (config_map(code=CODE + b"\0\2\1x"), "is not the code in counter.wasm, which has"),
        (
            config_map(code=b"no wasm", text=json.dumps({**json.loads(TEXT), "wasm_hash": content_id(b"no wasm")})),
            "(counter).code: is no module that a world takes",
        ),
    ],
)
async def test_what_is_wrong_with_a_config_map_is_said_and_what_is_mended_is_taken(
    bad: dict[str, Any] | None, says: str
) -> None:
    harness = beginning()
    if bad is not None:
        put(harness, bad)
    outcome = [await harness.once() for _ in range(3)][-1]
    assert harness.condition("World", "aurora", "Ready") == ("False", "InvalidGenesis")
    assert harness.condition("World", "aurora", "Initialized") == ("False", "InvalidGenesis")
    assert harness.condition("World", "aurora", "Progressing") == ("False", "InvalidGenesis")
    assert harness.world["phase"] == "Invalid"
    assert says in harness.message("World", "aurora", "Ready")
    assert "spec.genesis.modules[0]" in harness.message("World", "aurora", "Ready")
    events = harness.events("InvalidGenesis")
    assert len(events) == 1, "said once, not with every pass"
    assert says in events[0]
    assert "aurora-genesis" not in harness.kube.names("ConfigMap")
    assert outcome.again_seconds is not None, "nothing tells us when a ConfigMap of a person changes"

    put(harness, config_map())
    await harness.settle()
    assert harness.world["phase"] == "Ready"
    assert harness.condition("World", "aurora", "Initialized")[0] == "True"


async def test_an_operator_that_is_killed_while_it_waits_goes_on() -> None:
    harness = beginning()
    await harness.once()
    harness.restart()
    put(harness, config_map())
    await harness.settle()
    assert harness.world["phase"] == "Ready"


async def test_modules_that_are_not_those_of_the_genesis_are_named() -> None:
    harness = beginning()
    put(harness, config_map())
    await harness.settle()
    # The API server refuses this edit; an operator that meets it all the same says so and changes nothing.
    modules = [{"moduleId": "counter", "version": "2.0.0", "artifact": REFERENCE}]
    harness.apply("World", "aurora", genesis={"modules": modules})
    await harness.settle()
    assert "spec.genesis.modules" in harness.message("World", "aurora", "FieldsEffective")
    assert harness.nodes.document is not None
    assert harness.nodes.document.modules == (MODULE,)
