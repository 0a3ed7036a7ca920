"""A world of real processes that begins with the modules of an example: actions, replay, archive, a node that joins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.gateway import GatewayClient
from agentworld_client.governor import read_value
from agentworld_client.submit import Agent
from agentworld_core.codec import decode_value
from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.modules.records import ModuleStateRecord, module_state_key
from tests.integration.worlds import LocalWorld, agents, registrations, run_cli, verify, world

EXAMPLES = Path(__file__).parents[2] / "examples" / "modules"
MODULES = [
    {"moduleId": name, "version": "1.0.0", "artifact": {"configMapKeyRef": {"name": name, "key": f"{name}.wasm"}}}
    for name in ("counter", "market")
]


def place(folder: Path) -> None:
    """Puts what stands for the ConfigMap of a module beside the manifests, as beside those of the examples."""
    for name in ("counter", "market"):
        (folder / name).mkdir()
        for file in (f"{name}.wasm", "manifest.json"):
            (folder / name / file).write_bytes((EXAMPLES / name / file).read_bytes())


def adds(actor: Agent, count: int) -> list[ActionEnvelope]:
    return [actor.act("counter.add", {"by": 2}) for _ in range(count)]


async def total(client: GatewayClient) -> Any:
    """What the module keeps: the total, and how often it has changed."""
    return decode_value(ModuleStateRecord.from_value(await read_value(client, module_state_key("counter"))).state)


async def said(*words: str) -> dict[str, Any]:
    result = await run_cli(*words, "--output", "json")
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.mark.box("S19.1", "cold")
@pytest.mark.box("S16.2", "joining")
@pytest.mark.timeout(900)
async def test_a_world_that_begins_with_modules(tmp_path: Path) -> None:
    manifest = world(2, genesis={"modules": MODULES}, gateway={"replicas": 1})
    async with LocalWorld(tmp_path, manifest) as local:
        place(tmp_path / "manifests")
        before = await local.up()
        (ada,) = agents(1)
        async with local.client("aurora-gateway-0") as client:
            receipts = await client.submit([*registrations([ada]), *adds(ada, 10)], wait=True)
            assert all(receipt["status"] == "committed" and receipt["ok"] for receipt in receipts), receipts
            assert await total(client) == [20, 10]
            listed = await said("module", "list", "--gateway", client.url)
            assert [(item["module_id"], item["from"]) for item in listed["modules"]] == [
                ("counter", "genesis"),
                ("market", "genesis"),
            ]

            # Files and folders beside the manifest are not needed any more: a node that joins gets all from the world.
            for name in ("counter", "market"):
                for file in (tmp_path / "manifests" / name).iterdir():
                    file.unlink()
            await local.apply(world(3, genesis={"modules": MODULES}, gateway={"replicas": 1}))
            joined = await local.settled()
            assert [node.phase for node in joined.nodes if node.node_id.startswith("aurora-2")] == ["Voting"]
            receipts = await client.submit(adds(ada, 5), wait=True)
            assert all(receipt["ok"] for receipt in receipts), receipts

            head = await local.same_head([*local.validators(), "aurora-gateway-0"])
            report = await verify(client.url, "--genesis", before.genesis_hash)
            assert (report["height"], report["state_root"]) == (head["height"], head["state_root"])

            archive, copy = tmp_path / "world.tar", tmp_path / "copy"
            await said("export", str(archive), "--gateway", client.url, "--genesis", before.genesis_hash)
        imported = await said("import", str(archive), "--data", str(copy), "--genesis", before.genesis_hash)
        assert imported["state_root"] == head["state_root"]


@pytest.mark.box("S16.1", "missing")
async def test_a_world_with_a_module_that_is_missing_does_not_begin(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "all.json").write_text(json.dumps(world(1, genesis={"modules": MODULES})))
    words = ["up", "-f", str(manifests), "--data", str(tmp_path / "world"), "--port", "0"]
    result = await run_cli(*words)
    assert result.returncode == 1
    for name in ("counter", "market"):
        assert f"(got '{name}'); make it: kubectl create configmap {name} --from-file" in result.stderr
    assert not list((tmp_path / "world").glob("genesis.cbor"))
