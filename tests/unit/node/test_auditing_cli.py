"""The auditor's commands on data folders, without any node; nothing in a folder is changed by reading it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentworld_core.codec import encode
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_node.cli import auditing, comparing, inspecting
from agentworld_node.cli.app import FAILED, NO_ANSWER, NOT_VERIFIED, USAGE, app
from agentworld_node.ledger import Ledger
from agentworld_node.records import COMMIT
from agentworld_node.storage.errors import CorruptLog
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.client.chain_source import a_chain, forged
from tests.unit.core.ledger.chains import Chain, with_fields
from tests.unit.core.world.agents import action

COMMANDS = (auditing, comparing, inspecting)
"""They register themselves when they are imported."""


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def fill(folder: Path, chain: Chain) -> Path:
    async def work() -> None:
        ledger = Ledger.open(folder, chain.genesis)
        for bundle in chain.bundles:
            assert await ledger.apply(bundle)
            await ledger.settle()
        ledger.close()

    asyncio.run(work())
    return folder


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain()


@pytest.fixture(scope="module")
def data(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a node that has stopped; tests only read it."""
    return fill(tmp_path_factory.mktemp("node") / "data", chain)


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a node that has another block 8."""
    other = a_chain(last=[action("ada", "agent.move", {"to": [3, 3]}, 4)])
    return fill(tmp_path_factory.mktemp("fork") / "data", other)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def written(folder: Path, chain: Chain, bundles: list[Any], blobs: dict[str, bytes] | None = None) -> Path:
    """A data folder with these blocks in its log, whatever they are worth."""
    with WriteAheadLog.open(folder / "log") as wal:
        for bundle in bundles:
            wal.append(COMMIT, encode(bundle))
            wal.sync_now()
    genesis = {genesis_hash(chain.genesis): encode(chain.genesis)}
    for content_hash, blob in (genesis | (blobs or {})).items():
        path = folder / "blobs" / content_hash[:2] / content_hash[2:4] / content_hash
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return folder


class TestVerify:
    @pytest.mark.box("S25.3", "checked-offline")
    @pytest.mark.parametrize("words", [(), ("--replay",)])
    def test_a_folder_is_verified_and_not_touched(self, data: Path, chain: Chain, words: tuple[str, ...]) -> None:
        before = contents(data)
        report = document(invoke("verify", data, *words, "--genesis-hash", genesis_hash(chain.genesis), "-o", "json"))
        assert (report["height"], report["state_root"]) == (8, chain.state.state_root)
        assert report["replayed"] == bool(words)
        assert contents(data) == before

    @pytest.mark.box("S7.3", "part")
    def test_only_some_heights(self, data: Path, chain: Chain) -> None:
        report = document(invoke("verify", data, "--from", 5, "--to", 7, "-o", "json"))
        assert (report["from_height"], report["height"]) == (4, 7)
        assert report["state_root"] == chain.bundles[6].block.state_root
        assert "4 to 7" in invoke("verify", data, "--from", 5, "--to", 7).stdout
        assert invoke("verify", data, "--to", 9).exit_code == NO_ANSWER
        assert invoke("verify", data, "--from", 7, "--to", 6).exit_code == FAILED
        assert invoke("verify", data, "--from", 0).exit_code == USAGE
        assert invoke("verify", data, "--genesis-hash", "abc").exit_code == USAGE

    @pytest.mark.box("S7.3", "trust")
    def test_another_genesis_is_exit_code_4(self, data: Path) -> None:
        result = invoke("verify", data, "--genesis-hash", "a" * 64, "-o", "json")
        assert result.exit_code == NOT_VERIFIED
        error = json.loads(result.stderr)["error"]
        assert (error["height"], error["place"]) == (0, "genesis")

    @pytest.mark.box("S7.3", "command")
    @pytest.mark.box("S25.3", "checked-offline")
    def test_a_log_with_a_changed_block_is_exit_code_4_with_height_and_field(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        folder = written(tmp_path, chain, [*chain.bundles[:4], with_fields(chain.bundles[4], "block", tick=9)])
        result = invoke("verify", folder, "-o", "json")
        error = json.loads(result.stderr)["error"]
        assert (result.exit_code, error["height"]) == (NOT_VERIFIED, 5)
        assert error["place"] == "certificate.block_hash"

    @pytest.mark.box("S7.3", "command")
    def test_a_wrong_result_is_found_by_replay_alone_and_names_the_action(self, tmp_path: Path, chain: Chain) -> None:
        move = action("bob", "agent.move", {"to": [8, 8]}, 4)
        receipt = dataclasses.replace(chain.executions[0].receipts[0], position=0, message="forged")
        bundle, blobs = forged(chain, [move], receipt=receipt)
        folder = written(tmp_path, chain, [*chain.bundles, bundle], blobs)
        assert document(invoke("verify", folder, "-o", "json"))["height"] == 9
        result = invoke("verify", folder, "--replay", "-o", "json")
        error = json.loads(result.stderr)["error"]
        assert (result.exit_code, error["height"], error["place"]) == (NOT_VERIFIED, 9, "block.receipts_root")
        assert error["difference"]["position"] == 0
        assert move.action_id in invoke("verify", folder, "--replay").stderr

    def test_a_damaged_log_is_told(self, tmp_path: Path, chain: Chain) -> None:
        folder = written(tmp_path, chain, list(chain.bundles))
        (path,) = (folder / "log").glob("*.wal")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        result = invoke("verify", folder, "-o", "json")
        assert (result.exit_code, json.loads(result.stderr)["error"]["code"]) == (FAILED, CorruptLog.code)

    def test_a_torn_tail_is_left_out_and_told(self, tmp_path: Path, chain: Chain) -> None:
        folder = written(tmp_path, chain, list(chain.bundles))
        (path,) = (folder / "log").glob("*.wal")
        path.write_bytes(path.read_bytes()[:-9])
        result = invoke("verify", folder, "-o", "json")
        assert (document(result)["height"], "left out" in result.stderr) == (7, True)

    def test_what_is_no_source_is_told(self, tmp_path: Path) -> None:
        for place in (tmp_path / "none", tmp_path):
            result = invoke("verify", place)
            assert (result.exit_code, result.stderr.startswith("error ")) == (FAILED, True)
        written(tmp_path / "empty", a_chain(), [])
        result = invoke("verify", tmp_path / "empty")
        assert (result.exit_code, "no block yet" in result.stderr) == (FAILED, True)


class TestInspect:
    def questions(self, chain: Chain) -> list[tuple[str, str, str]]:
        last = chain.bundles[7]
        return [
            ("block", "8", last.block.state_root),
            ("block", last.certificate.block_hash, last.block.state_root),
            ("state", "meta", "tick"),
            ("agent", "bob", "[5, 5]"),
            ("object", "lamp", '{"lit": true}'),
            ("receipt", chain.bundles[6].batch.actions[0].action_id, "unauthorized"),
            ("snapshot", "6", chain.bundles[5].block.snapshot_ref or ""),
            ("segment", last.block.segments[0].content_hash, "mailbox.cleared"),
        ]

    def test_everything_in_a_folder_is_shown_with_its_proof(self, data: Path, chain: Chain) -> None:
        before = contents(data)
        for kind, name, says in self.questions(chain):
            result = invoke("inspect", kind, name, "--source", data, "--genesis-hash", genesis_hash(chain.genesis))
            assert (result.exit_code, says in result.stdout) == (0, True), (kind, result.output)
            assert "checked" in result.stdout
            assert document(invoke("inspect", kind, name, "--source", data, "-o", "json"))["proof"]
        assert contents(data) == before

    def test_a_height_of_the_past(self, data: Path) -> None:
        found = document(invoke("inspect", "object", "lamp", "--height", 5, "--source", data, "-o", "json"))
        assert (found["height"], found["value"]["data"]) == (5, {"lit": False})
        result = invoke("inspect", "object", "lamp", "--height", 3, "--source", data)
        assert (result.exit_code, "no such key" in result.stderr) == (FAILED, True)
        assert invoke("inspect", "object", "lamp", "--height", 99, "--source", data).exit_code == NO_ANSWER

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("block", "99"), ("block", "x"), ("block", "a" * 64), ("state", "x" * 300), ("agent", "No Such"),
            ("object", "none"), ("receipt", "a" * 64), ("receipt", "1"), ("snapshot", "1"), ("segment", "a" * 64),
        ],
    )  # fmt: skip
    def test_what_is_not_there_or_no_id_is_one_sentence(self, data: Path, kind: str, name: str) -> None:
        result = invoke("inspect", kind, name, "--source", data)
        assert (result.exit_code, result.stdout) == (FAILED, "")
        assert result.stderr.startswith("error ")
        assert "Traceback" not in result.stderr

    def test_another_genesis_is_exit_code_4(self, data: Path) -> None:
        result = invoke("inspect", "block", 1, "--source", data, "--genesis-hash", "b" * 64)
        assert result.exit_code == NOT_VERIFIED


class TestDiff:
    def test_what_changed_is_shown_with_the_event_that_did_it(self, data: Path, chain: Chain) -> None:
        result = invoke("diff", 3, 8, "--source", data, "--genesis-hash", genesis_hash(chain.genesis))
        assert result.exit_code == 0, result.output
        assert "position: [0, 0] → [5, 5]" in result.stdout
        assert "object/lamp" in result.stdout
        assert "nonce/" not in result.stdout
        assert "nonce/" in invoke("diff", 3, 8, "--source", data, "--all").stdout
        found = document(invoke("diff", 3, 8, "--source", data, "-o", "json"))
        assert (found["from_height"], found["to_root"]) == (3, chain.state.state_root)
        assert {item["group"] for item in found["keys"]} == {"agent", "object", "meta", "nonce"}

    def test_heights_that_are_not_there_and_other_worlds(self, data: Path) -> None:
        assert invoke("diff", 1, 99, "--source", data).exit_code == NO_ANSWER
        assert invoke("diff", 1, -1, "--source", data).exit_code == USAGE
        assert invoke("diff", 1, 2, "--source", data, "--genesis-hash", "c" * 64).exit_code == NOT_VERIFIED
        assert document(invoke("diff", 4, 4, "--source", data, "-o", "json"))["keys"] == []


class TestArchives:
    @pytest.mark.box("S7.3", "sources")
    def test_a_folder_is_exported_verified_imported_and_verified_again(
        self, data: Path, chain: Chain, tmp_path: Path
    ) -> None:
        archive, trust = tmp_path / "world.tar", ("--genesis-hash", genesis_hash(chain.genesis))
        report = document(invoke("export", archive, "--source", data, *trust, "-o", "json"))
        assert (report["height"], report["snapshot_height"]) == (8, 6)
        for words in ((), ("--replay",)):
            assert document(invoke("verify", archive, *words, *trust, "-o", "json"))["height"] == 8
        assert document(invoke("inspect", "agent", "bob", "--source", archive, "-o", "json"))["height"] == 8
        assert "object/lamp" in invoke("diff", 3, 8, "--source", archive).stdout
        folder = tmp_path / "data"
        assert document(invoke("import", archive, "--data", folder, *trust, "-o", "json"))["replayed"] is True
        assert document(invoke("verify", folder, "--replay", "-o", "json"))["state_root"] == chain.state.state_root
        result = invoke("export", tmp_path / "five.tar", "--height", 5, "--source", folder)
        assert (result.exit_code, "archive hash" in result.stdout) == (0, True)
        assert "a node starts from it" in invoke("import", tmp_path / "five.tar", "--data", tmp_path / "five").stdout

    def test_what_cannot_be_exported(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("mine")
        assert invoke("export", tmp_path / "mine", "--source", data).exit_code == FAILED
        assert invoke("export", tmp_path / "world.tar", "--source", data, "--height", 99).exit_code == NO_ANSWER
        wrong = ("--genesis-hash", "d" * 64)
        assert invoke("export", tmp_path / "world.tar", "--source", data, *wrong).exit_code == NOT_VERIFIED
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_a_file_that_is_no_archive_is_exit_code_4_and_nothing_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "world.tar").write_bytes(b"garbage" * 200)
        for words in (("verify",), ("import", "--data", tmp_path / "data")):
            result = invoke(*words, tmp_path / "world.tar", "-o", "json")
            assert result.exit_code == NOT_VERIFIED, result.output
            assert json.loads(result.stderr)["error"]["code"] == "archive_damaged"
        assert [path.name for path in tmp_path.iterdir()] == ["world.tar"]
        assert invoke("import", tmp_path / "none.tar", "--data", tmp_path / "data").exit_code == FAILED
        assert invoke("import", tmp_path / "world.tar").exit_code == USAGE


class TestCompare:
    """`agentworld compare` finds where two sources part."""

    def test_what_is_the_same(self, data: Path) -> None:
        found = document(invoke("compare", data, "--source", data, "-o", "json"))
        assert found == {"agreed": 8, "compared": 8, "probes": 1, "divergence": None}
        assert "The same up to height 8" in invoke("compare", data, "-s", data).stdout

    def test_what_is_not(self, data: Path, forked: Path) -> None:
        result = invoke("compare", forked, "--source", data, "--replay", "-o", "json")
        assert result.exit_code == NOT_VERIFIED
        found = json.loads(result.stdout)["divergence"]
        assert (found["height"], found["position"]) == (8, 0)
        assert [item["right"] for item in found["verdicts"]] == [True, True]
        text = invoke("compare", forked, "--source", data, "--replay")
        assert text.exit_code == NOT_VERIFIED
        assert "They part at height 8 (found by comparing 4 of 8 heights)" in text.stdout
        assert "the batches differ from position 0 on" in text.stdout
        assert "right: execution and the quorum's certificate agree" in text.stdout
        assert invoke("compare", forked, "--source", data, "--to", 7).exit_code == 0
        assert invoke("compare", forked, "--source", data, "--to", 9).exit_code == NO_ANSWER

    def test_another_result(self, data: Path, chain: Chain, tmp_path: Path) -> None:
        moves = [action("ada", "agent.move", {"to": [9, 9]}, 5), action("bob", "agent.move", {"to": [8, 8]}, 4)]
        longer = a_chain()
        longer.commit(*moves)
        right = fill(tmp_path / "right", longer)
        event = next(item for item in longer.executions[-1].events if item.caused_by == moves[1].action_id)
        bundle, blobs = forged(chain, moves, event=dataclasses.replace(event, tick=77))
        wrong = written(tmp_path / "wrong", chain, [*chain.bundles, bundle], blobs)
        result = invoke("compare", wrong, "--source", right, "--replay", "-o", "json")
        assert result.exit_code == NOT_VERIFIED, result.output
        found = json.loads(result.stdout)["divergence"]
        assert (found["height"], found["position"], found["difference"]["position"]) == (9, -1, 1)
        assert found["difference"]["action_id"] == moves[1].action_id
        assert [item["right"] for item in found["verdicts"]] == [True, False]
        text = invoke("compare", wrong, "--source", right, "--replay").stdout
        assert f"the first difference is of action {moves[1].action_id} (position 1)" in text
