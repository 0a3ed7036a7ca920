"""Proofs that a validator voted twice: kept before they are told, fetched where they lack, shown and checked."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import PER_VALIDATOR, Evidence, evidence_id
from agentworld_core.messages import Equivocation
from agentworld_core.names import topic
from agentworld_node.cli import evidence as evidence_commands
from agentworld_node.cli.app import FAILED, NOT_VERIFIED, app
from agentworld_node.records import EVIDENCE
from agentworld_node.roles import evidence as evidence_module
from agentworld_node.roles.evidence import GET_EVIDENCE
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.core.consensus.test_evidence import proof
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.membership.worlds import signer
from tests.unit.node.material import Material
from tests.unit.node.rig import ME, rig
from tests.unit.node.running import eventually, get, memory_world

assert evidence_commands.evidence_app is not None, "importing it registers its commands"

TOPIC = topic("aurora", "consensus.evidence")
FIRST = Chain().genesis.directory


def of(name: str = "b", *, height: int = 5) -> Equivocation:
    return proof(name, height=height, directory=FIRST, key=signer(name))


async def invoke(*words: object) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["evidence", *map(str, words)])


class TestRole:
    async def test_what_is_found_is_durable_before_it_is_told(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role, peer = it.evidence(), await it.peer("peer-a")
            told: list[Equivocation] = []
            peer.subscribe(TOPIC, lambda _peer, data: told.append(decode(Equivocation, data)))
            for _ in range(3):
                role.found(of())
            await eventually(lambda: told)
            role.found(of())
            assert told == [of()]
            assert it.metrics.total("agentworld_evidence_total") == 1
            assert role.rows()[0]["hash"] == evidence_id(of())
        async with rig(tmp_path) as it:
            assert [item for _, item in it.ledger.evidence.items()] == [of()], "it survives a restart"
        with WriteAheadLog.open(tmp_path / "log") as wal:
            assert sum(record.kind == EVIDENCE for record in wal.records()) == 1

    async def test_a_flood_of_right_proofs_is_bounded_while_they_are_written(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.evidence()
            for height in range(1, 60):
                role.found(of(height=height))
            role.found(of("c"))
            await eventually(lambda: len(it.ledger.evidence) == PER_VALIDATOR + 1)
        with WriteAheadLog.open(tmp_path / "log") as wal:
            assert sum(record.kind == EVIDENCE for record in wal.records()) == PER_VALIDATOR + 1

    async def test_what_is_told_is_checked(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            it.evidence()
            peer, other = await it.peer("peer-a"), await it.peer("peer-b")
            unknown = dataclasses.replace(of(), first=dataclasses.replace(of().first, directory_epoch=9))
            forged = dataclasses.replace(of(), first=dataclasses.replace(of().first, height=6))
            for bad in (encode(unknown), encode(forged)):
                await peer.publish(TOPIC, bad)
            await other.publish(TOPIC, b"garbage")
            await eventually(lambda: sum(it.refused("consensus.evidence").values()) == 3)
            assert len(it.ledger.evidence) == 0
            await peer.publish(TOPIC, encode(of()))
            third = await it.peer("peer-c")
            await third.publish(TOPIC, encode(of("c")))
            await eventually(lambda: len(it.ledger.evidence) == 1)
            assert it.ledger.evidence.get(evidence_id(of("c"))), "who told a lie is not heard for a while"

    async def test_what_is_missing_is_fetched_and_what_is_wrong_in_it_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evidence_module, "RECONCILE_SECONDS", 0.05)
        async with rig(tmp_path) as it:
            peer = await it.peer("peer-a")
            forged = dataclasses.replace(of(), first=dataclasses.replace(of().first, height=6))
            asked: list[bytes] = []

            async def serve(_peer: str, payload: bytes) -> bytes:
                asked.append(payload)
                return encode(Evidence("aurora", (forged, of("c"))))

            peer.serve(GET_EVIDENCE, serve)
            it.evidence()
            await eventually(lambda: len(it.ledger.evidence) == 1 and len(set(asked)) == 2)
            assert it.ledger.evidence.get(evidence_id(of("c")))
            mine = await peer.request(ME, GET_EVIDENCE, b"", timeout=5)
            assert decode(Evidence, mine).items == (of("c"),)
            assert await peer.request(ME, GET_EVIDENCE, asked[-1], timeout=5) == b""


class TestShown:
    @pytest.mark.box("S25.3", "evidence-checked-offline")
    async def test_by_the_api_and_on_the_command_line(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0", "v1"))
        async with memory_world(material, start=False) as world:
            (node,) = await world.start("v0")
            assert "no validator is known" in (await invoke("list", "--gateway", node.url)).output
            found = proof(directory=material.genesis.directory)
            key = evidence_id(found)
            node.node.evidence.found(found)
            await eventually(lambda: len(node.node.ledger.evidence))

            _, text = await get(node.url, "/v1/evidence")
            (item,) = json.loads(text)["items"]
            assert (item["hash"], item["first"]["validator_id"]) == (key, "v1")
            status, text = await get(node.url, f"/v1/evidence/{key}")
            assert (status, json.loads(text)) == (200, item)
            assert (await get(node.url, f"/v1/evidence/{'0' * 64}"))[0] == 404
            assert (await get(node.url, "/v1/evidence/x"))[0] == 400
            assert "agentworld_evidence 1\n" in (await get(node.url, "/metrics"))[1]

            listed = await invoke("list", "--gateway", node.url)
            assert "v1" in listed.output
            assert key in listed.output
            (row,) = json.loads((await invoke("list", "--gateway", node.url, "--output", "json")).output)
            saved = tmp_path / "proof"
            shown = await invoke("show", key[:8], "--save", saved, "--gateway", node.url)
            assert (shown.exit_code, key in shown.output) == (0, True), shown.output
            assert (await invoke("show", "ffff" + key, "--gateway", node.url)).exit_code == FAILED
            assert (await invoke("show", key, "--save", tmp_path, "--gateway", node.url)).exit_code == FAILED
            genesis = node.node.ledger.genesis_hash
            await self.of_a_status(found, tmp_path, source=node.url, facts=row | {"epoch": 1, "genesis": genesis})

        checked = await invoke("check", saved, "--genesis", genesis, "--output", "json")
        assert json.loads(checked.output) == row | {"epoch": 1, "genesis": genesis}
        assert "pin it with --genesis" in (await invoke("check", saved)).output
        assert (await invoke("check", saved, "--genesis", "0" * 64)).exit_code == NOT_VERIFIED
        data = bytearray(saved.read_bytes())
        data[-1] ^= 1
        saved.write_bytes(data)
        refused = await invoke("check", saved)
        assert refused.exit_code == NOT_VERIFIED
        assert "nothing is proven" in refused.output
        assert (await invoke("check", tmp_path / "nothing")).exit_code == FAILED
        saved.write_bytes(b"garbage")
        assert (await invoke("check", saved)).exit_code == FAILED

    async def of_a_status(self, found: Equivocation, folder: Path, *, source: str, facts: dict[str, object]) -> None:
        """The messages alone are judged by the directories of a source, which is believed as little as a file."""
        alone, forged = folder / "alone", folder / "forged"
        alone.write_bytes(base64.b64encode(encode(found)))
        genesis = facts["genesis"]
        checked = await invoke("check", alone, "--source", source, "--genesis", genesis, "--output", "json")
        assert json.loads(checked.output) == facts
        unpinned = await invoke("check", alone, "--source", source)
        assert "as the source says" in " ".join(unpinned.output.split())
        assert (await invoke("check", alone, "--source", source, "--genesis", "0" * 64)).exit_code == NOT_VERIFIED
        bad = dataclasses.replace(found, first=dataclasses.replace(found.first, height=6))
        forged.write_bytes(encode(bad))
        assert (await invoke("check", forged, "--source", source)).exit_code == NOT_VERIFIED
        later = dataclasses.replace(found, first=dataclasses.replace(found.first, directory_epoch=2**60))
        forged.write_bytes(encode(later))
        assert (await invoke("check", forged, "--source", source)).exit_code == FAILED
        assert (await invoke("check", alone, "--source", folder / "none")).exit_code == FAILED
