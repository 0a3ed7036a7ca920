"""``agentworld module`` and ``agentworld proposal`` against a node that runs the example modules for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.keys import save
from agentworld_core.codec import decode_value
from agentworld_node.cli import governance
from agentworld_node.cli.app import FAILED
from agentworld_node.node import Node
from agentworld_node.sandbox import WasmSandbox
from tests.unit.node.material import Material, signer
from tests.unit.node.running import MemoryWorld
from tests.unit.node.test_cli import Background, ada, background, invoke, lines, material

__all__ = ["ada", "background", "governance", "material"]  # fixtures and commands that are there once imported

EXAMPLES = Path(__file__).parents[3] / "examples/modules"
COUNTER = EXAMPLES / "counter/counter.wasm"
MANIFEST = EXAMPLES / "counter/manifest.json"


@pytest.fixture
def node(background: Background, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    world = MemoryWorld(material)
    sandbox = WasmSandbox(tmp_path / "native")
    world.sandbox_of = lambda _name: sandbox

    async def start() -> Node:
        return (await world.start())[0].node

    running = background.do(start())
    monkeypatch.setenv("AGENTWORLD_GATEWAY", f"http://127.0.0.1:{running.http_port}")
    yield running
    background.do(world.stop())


@pytest.fixture
def gov(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "governance.pem"
    save(signer("gov"), path)
    return ("--key", str(path))


def done(*words: object) -> dict[str, Any]:
    """Runs a command that must succeed and returns its JSON document."""
    result = invoke(*words, "--output", "json")
    assert result.exit_code == 0, result.output
    return dict(lines(result)[0])


def put_into_force(number: int, gov: tuple[str, str]) -> None:
    assert done("proposal", "shadow", number, *gov)["status"] == "ok"
    assert done("proposal", "approve", number, *gov, "--agent", "second")["state"] == "approved"
    assert done("proposal", "apply", number, *gov)["state"] == "applied"


def count(node: Node) -> Any:
    found = node.ledger.chain.tree.get(b"modstate/counter")
    assert found is not None
    state = decode_value(found)
    assert isinstance(state, dict)
    return decode_value(state["state"])


@pytest.mark.box("S18.2", "active", "rollback")
def test_a_module_is_published_acts_and_is_upgraded(
    node: Node, gov: tuple[str, str], ada: tuple[str, ...], tmp_path: Path
) -> None:
    assert "no module is active" in invoke("module", "list").stdout
    published = done("module", "publish", COUNTER, "--manifest", MANIFEST, *gov)
    assert published["proposal"] == 1
    refused = invoke("proposal", "apply", 1, *gov)
    assert (refused.exit_code, "not approved" in refused.stderr) == (FAILED, True), refused.output
    report = done("proposal", "shadow", 1, *gov)
    assert (report["status"], report["changes"]) == ("ok", ["registers counter@1.0.0", "activates counter@1.0.0"])
    own = invoke("proposal", "approve", 1, *gov)
    assert (own.exit_code, "author" in own.stderr) == (FAILED, True), own.output
    assert done("proposal", "approve", 1, *gov, "--agent", "second")["state"] == "approved"
    assert done("proposal", "apply", 1, *gov)["state"] == "applied"

    (active,) = done("module", "list")["modules"]
    assert (active["module_id"], active["version"], active["from"], active["wasm_hash"]) == (
        "counter",
        "1.0.0",
        "proposal 1",
        published["artifact"],
    )
    assert invoke("submit", *ada, "agent.register", '{"position": [0, 0]}').exit_code == 0
    assert invoke("submit", *ada, "counter.add", '{"by": 5}', "counter.add", '{"by": 2}').exit_code == 0
    assert count(node) == [7, 2]

    newer = {**json.loads(MANIFEST.read_text()), "version": "1.1.0", "name": "A better total"}
    del newer["wasm_hash"]
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    upgrade = done("module", "publish", COUNTER, "--manifest", tmp_path / "newer.json", *gov)
    assert upgrade == {"artifact": published["artifact"], "proposal": 2}
    put_into_force(2, gov)
    assert done("module", "show", "counter")["manifest"]["version"] == "1.1.0"
    assert invoke("submit", *ada, "counter.add", '{"by": 1}').exit_code == 0
    assert count(node) == [8, 3]
    assert done("module", "publish", COUNTER, "--manifest", MANIFEST, *gov)["proposal"] == 3
    put_into_force(3, gov)
    assert done("module", "show", "counter")["manifest"]["version"] == "1.0.0", "a version is put into force again"
    assert done("module", "rollback", "counter", "--reason", "a mistake", *gov)["proposal"] == 4
    put_into_force(4, gov)
    assert done("module", "show", "counter")["manifest"]["version"] == "1.1.0"
    assert count(node) == [8, 3], "with the state that it had then"
    (tmp_path / "other.json").write_text(json.dumps({**newer, "name": "Another"}))
    other = invoke("module", "publish", COUNTER, "--manifest", tmp_path / "other.json", *gov)
    assert (other.exit_code, "another manifest" in other.stderr) == (FAILED, True), other.output
    assert [item["state"] for item in done("proposal", "list")["proposals"]] == ["applied"] * 4
    for words in (
        ("module", "list"),
        ("module", "show", "counter@1.0.0"),
        ("proposal", "list"),
        ("proposal", "show", 1),
    ):
        assert invoke(*words).exit_code == 0


def test_a_proposal_whose_shadow_fails_says_why_and_can_be_rejected(
    node: Node, gov: tuple[str, str], tmp_path: Path
) -> None:
    manifest = {
        **json.loads(MANIFEST.read_text()),
        "exports": ["reduce", "reduce_batch", "more"],
        "required_caps": ["mail"],
    }
    (tmp_path / "wrong.json").write_text(json.dumps(manifest))
    done("module", "publish", COUNTER, "--manifest", tmp_path / "wrong.json", *gov)
    assert done("proposal", "show", 1)["changes"]["register"] == [manifest]
    result = invoke("proposal", "shadow", 1, *gov)
    assert result.exit_code == FAILED
    assert "CAPS_DENIED" in result.stdout
    assert "ABI_INCOMPATIBLE" in result.stdout
    assert done("proposal", "reject", 1, *gov, "--reason", "wrong manifest")["state"] == "rejected"
    shown = done("proposal", "show", 1)
    assert (shown["state"], shown["reason"]) == ("rejected", "wrong manifest")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wasm_hash": "0" * 64}, "wasm_hash"),
        ({"kind": "actor"}, "manifest.kind"),
        ({"limits": {"max_gas": -1}}, "manifest.limits.max_gas"),
        ({"module_id": "Counter"}, "manifest.module_id"),
    ],
)
def test_a_manifest_that_no_world_would_take_is_named_before_anything_is_sent(
    node: Node, gov: tuple[str, str], tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps({**json.loads(MANIFEST.read_text()), **change}))
    result = invoke("module", "publish", COUNTER, "--manifest", tmp_path / "wrong.json", *gov)
    assert (result.exit_code, says in result.stderr) == (FAILED, True), result.output
    assert node.ledger.height == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("module", "publish", "nowhere.wasm", "--manifest", str(MANIFEST)), "nowhere.wasm"),
        (("module", "publish", str(COUNTER), "--manifest", str(COUNTER)), "is not JSON"),
        (("proposal", "approve", "7"), "no proposal 7"),
        (("proposal", "create", str(MANIFEST)), "changes"),
    ],
)
def test_what_cannot_be_done_is_told(node: Node, gov: tuple[str, str], words: tuple[str, ...], says: str) -> None:
    result = invoke(*words, *gov)
    assert (result.exit_code, says in result.stderr) == (FAILED, True), result.output


def test_another_key_than_governance_is_refused_before_anything_is_sent(node: Node, ada: tuple[str, ...]) -> None:
    result = invoke("module", "publish", COUNTER, "--manifest", MANIFEST, "--key", ada[1])
    assert (result.exit_code, "no governance key" in result.stderr) == (FAILED, True), result.output
    assert node.ledger.height == 0


@pytest.mark.parametrize("words", [("module", "show", "nothing"), ("proposal", "show", "3")])
def test_what_is_not_there_is_told(node: Node, words: tuple[str, ...]) -> None:
    result = invoke(*words)
    assert result.exit_code == FAILED
    assert "not_found" in result.stderr
