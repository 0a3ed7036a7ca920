"""``agentworld effect`` against a node whose module asks for something outside of the world."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.effects import EffectWorker, read_params, waiting_effects
from agentworld_client.errors import ActionNotTaken
from agentworld_client.keys import save
from agentworld_client.submit import Agent
from agentworld_core.errors import HashMismatch, NotFound
from agentworld_core.world.modules.receipts import params_hash_of
from agentworld_node.cli import effects, governance
from agentworld_node.cli.app import FAILED
from agentworld_node.node import Node
from tests.unit.core.world.modules.governed import FakeSandbox, manifest
from tests.unit.node.material import WORLD, Material, signer
from tests.unit.node.running import MemoryWorld, RunningNode
from tests.unit.node.test_cli import Background, ada, background, invoke, material
from tests.unit.node.test_governance_cli import done, gov, put_into_force

__all__ = ["ada", "background", "effects", "gov", "governance", "material"]

CODE = b"courier"
PARAMS = {"to": "x", "stamp": b"\x01\x02"}
SUBSCRIPTIONS = [
    {"action_kinds": ["mail.post"], "stage": "post_action"},
    {"event_kinds": ["effect.settled"], "filters": [{"path": "/payload/module_id", "eq": "courier"}]},
]


def courier(given: dict[str, Any]) -> Any:
    """A reducer that asks for a letter for each action, and remembers the last receipt."""
    if "action" in given:
        return {"effects": [{"kind": "mail.send", "params": PARAMS, "cap_ref": "post", "ref": "letter"}]}
    told = given["event"]["payload"]
    return {"new_state": f"{told['ref']} {told['status']} {told['result']} {told['cost_cents']}".encode()}


@pytest.fixture
def running(background: Background, material: Material, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    world = MemoryWorld(material)
    sandbox = FakeSandbox()
    sandbox.add(CODE, courier)
    world.sandbox_of = lambda _name: sandbox

    async def start() -> RunningNode:
        return (await world.start())[0]

    found = background.do(start())
    monkeypatch.setenv("AGENTWORLD_GATEWAY", f"http://127.0.0.1:{found.node.http_port}")
    yield found
    background.do(world.stop())


@pytest.fixture
def node(running: RunningNode, gov: tuple[str, str], ada: tuple[str, ...], tmp_path: Path) -> Node:
    """A node of a world with a courier, where one letter waits for its receipt."""
    node = running.node
    given = manifest("courier", "", kind="reducer", subscriptions=SUBSCRIPTIONS, required_caps=["post"])
    del given["wasm_hash"]
    (tmp_path / "courier.wasm").write_bytes(CODE)
    (tmp_path / "courier.json").write_text(json.dumps(given))
    act = (*gov, "--agent", f"governance-{signer('gov').key_id[:12]}")
    assert "no effect waits" in invoke("effect", "list").stdout
    assert invoke("submit", *act, "agent.register", '{"position": [0, 0]}').exit_code == 0
    grant = {
        "capability": "post", "kinds": ["mail.*"], "expires_tick": 0, "signers": [signer("worker").key_id]
    }  # fmt: skip
    rules = {"rules": [{"effect": "mail.*", "module": "courier", "decision": "allow", "reason": "letters"}]}
    words = ("capability.grant", json.dumps(grant), "policy.set", json.dumps(rules))
    assert invoke("submit", *act, *words).exit_code == 0
    done("module", "publish", tmp_path / "courier.wasm", "--manifest", tmp_path / "courier.json", *gov)
    put_into_force(1, gov)
    assert invoke("submit", *ada, "agent.register", '{"position": [0, 0]}', "mail.post", "{}").exit_code == 0
    return node


@pytest.fixture
def worker(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "worker.pem"
    save(signer("worker"), path)
    return ("--key", str(path))


def memory(node: Node) -> bytes:
    return node.ledger.chain.tree.get(b"modstate/courier") or b""


def test_an_effect_is_shown_settled_once_and_handed_back(node: Node, worker: tuple[str, str]) -> None:
    (waiting,) = done("effect", "list")["effects"]
    assert (waiting["intent"], waiting["kind"], waiting["ref"]) == (1, "mail.send", "letter")
    shown = done("effect", "show", 1)
    assert shown["params"] == {"to": "x", "stamp": {"$hex": "0102"}}
    assert shown["params_hash"] == params_hash_of(PARAMS)
    assert "mail.send" in invoke("effect", "list").stdout
    assert '"$hex": "0102"' in invoke("effect", "show", 1).stdout
    receipt = '{"status": "done", "result": "posted", "cost_cents": 7}'
    settled = done("effect", "settle", 1, receipt, *worker)
    assert (settled["intent"], settled["status"], settled["height"]) == (1, "done", node.ledger.height)
    assert b"letter done posted 7" in memory(node)
    assert done("effect", "list") == {"effects": []}
    again = invoke("effect", "settle", 1, receipt, *worker)
    assert (again.exit_code, "not_found" in again.stderr) == (FAILED, True), again.output
    assert invoke("effect", "show", 1).exit_code == FAILED


def test_a_failure_is_told_to_people_too(node: Node, gov: tuple[str, str]) -> None:
    told = invoke("effect", "settle", 1, '{"status": "failed", "result": null}', *gov)
    assert "Effect 1 is settled as failed at height" in told.stdout, told.output
    assert b"letter failed None None" in memory(node)


@pytest.mark.parametrize(
    ("receipt", "says"),
    [
        ("{", "RECEIPT"),
        ("[]", "RECEIPT"),
        ('{"status": "done"}', "RECEIPT"),
        ('{"status": "done", "result": 1, "more": 1}', "RECEIPT"),
        ('{"status": "done", "result": 1, "cost_cents": -1}', "RECEIPT.cost_cents"),
        ('{"status": "maybe", "result": 1}', "receipt.status"),
        ('{"status": "done", "result": 1.5}', "RECEIPT"),
    ],
)
def test_what_is_no_receipt_is_told(node: Node, worker: tuple[str, str], receipt: str, says: str) -> None:
    result = invoke("effect", "settle", 1, receipt, *worker)
    assert (result.exit_code, says in result.stderr) == (FAILED, True), result.output
    assert memory(node) == b""


def test_another_key_is_refused_by_the_world(node: Node, ada: tuple[str, ...]) -> None:
    result = invoke("effect", "settle", 1, '{"status": "done", "result": 1}', *ada[:2])
    assert (result.exit_code, "unauthorized" in result.stderr) == (FAILED, True), result.output
    assert memory(node) == b""


def test_a_worker_of_its_own(node: Node, running: RunningNode, background: Background) -> None:
    async def work() -> None:
        async with running.client() as client:
            (waiting,) = await waiting_effects(client)
            assert await read_params(client, waiting.intent, waiting.record) == PARAMS
            with pytest.raises(NotFound):
                await read_params(client, 2, waiting.record)
            with pytest.raises(HashMismatch):
                await read_params(client, 1, dataclasses.replace(waiting.record, params_hash="0" * 64))
            worker = EffectWorker(client, Agent(signer("worker"), world_id=WORLD, actor_id="worker"))
            await worker.register()
            await worker.register()
            taken = await worker.settle(1, status="done", result=[1, 2])
            assert taken["ok"] is True
            with pytest.raises(NotFound):
                await worker.settle(1, status="done", result=[1, 2])
            with pytest.raises(ActionNotTaken) as caught:
                await worker.bring(b"\x80")
            assert caught.value.code == "invalid_field"

    background.do(work())
    assert b"letter done [1, 2] None" in memory(node)
