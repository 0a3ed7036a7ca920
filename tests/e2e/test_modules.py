"""Actions that go through a WebAssembly module that a world begins with, and that is upgraded while actions flow."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from agentworld_client import keys
from agentworld_client.gateway import GatewayClient
from agentworld_client.governor import Governor, manifest_for, read_value
from agentworld_client.submit import Agent, submit_all
from agentworld_core.codec import Value, decode_value
from agentworld_core.signing import Ed25519Signer
from agentworld_core.world.modules.records import ModuleStateRecord, module_state_key
from tests.e2e.counter import CODE, COUNTER, MANIFEST, make_counter
from tests.e2e.kube import Namespace, RunningWorld, world
from tests.e2e.test_keys import active
from tests.e2e.test_world import verify
from tests.e2e.traffic import Traffic, assert_each_once

ADDS = 20


def governance_key(aurora: RunningWorld, folder: Path) -> Ed25519Signer:
    """The key that governs, from its Secret, as a person with the right to read it would take it."""
    name = "aurora-governance"
    rows = aurora.namespace.status("awk", name)["keys"]
    generation = next(row["generation"] for row in rows if row["keyId"] == active(aurora, name))
    secret = aurora.namespace.get("secret", f"{name}-g{generation}")
    path = folder / "governance.pem"
    path.touch(mode=0o600)
    path.write_bytes(base64.b64decode(secret["data"]["private.pem"]))
    return keys.load(path)


async def put_in_force(url: str, signer: Ed25519Signer, version: str) -> None:
    """Brings a version of the example into force by a proposal that another agent approves."""
    manifest = manifest_for(CODE, {**MANIFEST, "version": version})
    async with GatewayClient(url, patience=60) as client:
        world_id = (await client.genesis()).world_id
        author, approver = (
            Governor(client, Agent(signer, world_id=world_id, actor_id=f"{name}-{signer.key_id[:12]}"))
            for name in ("author", "approver")
        )
        await author.register()
        await approver.register()
        await author.publish(CODE)
        number = await author.propose(await author.changes_for(manifest, activate=True))
        report = await author.shadow(number)
        assert report["status"] == "ok", report
        await approver.approve(number)
        await author.apply(number)
        assert (await author.proposal(number)).state == "applied"


async def add(url: str) -> list[str]:
    """Has a new agent add one to the counter, again and again; returns the ids of the committed actions."""
    async with GatewayClient(url, patience=60) as client:
        signer = keys.generate()
        agent = Agent(signer, world_id=(await client.genesis()).world_id, actor_id=f"adder-{signer.key_id[:12]}")
        actions = [agent.act("agent.register", {"position": [0, 0]})]
        actions += [agent.act("counter.add", {"by": 1}) for _ in range(ADDS)]
        receipts = await submit_all(client, actions, wait=True)
    assert all(item.get("status") == "committed" and item["ok"] for item in receipts), receipts
    return [item["action_id"] for item in receipts]


async def total(url: str) -> Value:
    """Returns what the module keeps: the total, and how often it has changed."""
    async with GatewayClient(url, patience=60) as client:
        value = await read_value(client, module_state_key("counter"))
    return decode_value(ModuleStateRecord.from_value(value).state)


@pytest.mark.box("S18.2", "active")
def test_the_module_of_the_genesis_runs_and_is_upgraded_while_actions_flow(
    aurora: RunningWorld, tmp_path: Path
) -> None:
    signer = governance_key(aurora, tmp_path)
    with aurora.gateway() as url, Traffic(url) as traffic:
        promised = asyncio.run(add(url))
        asyncio.run(put_in_force(url, signer, "1.1.0"))
        promised += asyncio.run(add(url))
    with aurora.gateway() as url:
        assert asyncio.run(total(url)) == [2 * ADDS, 2 * ADDS]
        assert_each_once(url, [*traffic.committed, *promised])
        report = asyncio.run(verify(url))
    assert report.genesis_hash == aurora.status["genesisHash"]
    aurora.wait(
        "the status shows the verified head",
        lambda: aurora.status.get("head", {}).get("stateRoot") == report.state_root,
        seconds=30,
    )
    assert aurora.namespace.is_true("aw", "aurora", "Ready")


@pytest.mark.box("S16.1", "missing")
def test_a_world_waits_for_its_modules_and_says_for_what(namespace: Namespace) -> None:
    namespace.apply(world("late", validators={"replicas": 1}, genesis={"modules": [COUNTER]}))
    running = RunningWorld(namespace, "late")

    def said() -> str:
        return str(namespace.condition("aw", "late", "Initialized").get("message"))

    running.wait("the missing ConfigMap is named", lambda: "there is no such ConfigMap" in said(), seconds=60)
    assert "spec.genesis.modules[0].artifact.configMapKeyRef.name" in said()
    assert namespace.condition("aw", "late", "Ready")["reason"] == "InvalidGenesis"
    assert namespace.find("pods") == []

    namespace.kubectl("create", "configmap", "counter", "--from-literal=counter.wasm=text")
    running.wait("the wrong one is judged", lambda: "has no manifest beside it" in said(), seconds=60)
    namespace.kubectl("delete", "configmap", "counter")
    make_counter(namespace)
    running.wait_ready()
    with running.gateway() as url:
        asyncio.run(add(url))
        assert asyncio.run(total(url)) == [ADDS, ADDS]
