"""``agentworld store``: what people and programs see, and the exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentworld_node.cli import store
from agentworld_node.cli.app import FAILED, NOT_VERIFIED, USAGE, app
from agentworld_node.ledger import Ledger
from agentworld_node.storage.blobs import FileBlobStore
from tests.unit.core.ledger.chains import Chain
from tests.unit.node.store.folders import flip_blob, lose_blob, needed_blobs

COMMANDS = store
"""It registers itself when it is imported."""


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["store", *(str(word) for word in words)])


def test_a_whole_folder_is_checked(folder: Path) -> None:
    result = invoke("check", "--data", folder)
    assert result.exit_code == 0, result.output
    assert "nothing is damaged, nothing is missing" in result.output
    told = json.loads(invoke("check", "--data", folder, "-o", "json").output)
    assert (told["whole"], told["height"], told["snapshots"], told["findings"]) == (True, 13, [9, 12], [])


def test_damage_is_told_mended_and_gone(folder: Path, chain: Chain) -> None:
    bad = needed_blobs(chain, 4)["receipts"]
    flip_blob(folder, bad)
    result = invoke("check", "--data", folder)
    assert result.exit_code == NOT_VERIFIED
    assert bad in result.output
    assert "store repair" in result.output
    told = json.loads(invoke("check", "--data", folder, "-o", "json").output)
    assert told["findings"] == [{"hash": bad, "problem": "damaged", "kind": "receipts", "height": 4}]
    result = invoke("repair", "--data", folder, "-o", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["mended"] == {"execution": 1}
    assert "nothing is damaged" in invoke("repair", "--data", folder).output


def test_what_cannot_be_mended_is_listed(folder: Path, chain: Chain, tmp_path: Path) -> None:
    lost = needed_blobs(chain, 4)["journal"]
    lose_blob(folder, lost)
    genesis = next(iter(chain.bundles)).block.prev_block_hash
    lose_blob(folder, genesis)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = invoke("repair", "--data", folder, "--from", empty)
    assert result.exit_code == NOT_VERIFIED
    assert lost in result.output
    assert "--genesis" in result.output


def test_votes_that_are_gone_are_told_and_cannot_be_mended(folder: Path) -> None:
    shutil.rmtree(folder / "votes")
    for command in ("check", "repair"):
        result = invoke(command, "--data", folder)
        assert result.exit_code == NOT_VERIFIED
        assert "the log of votes" in result.output
        assert "whole" not in result.output
        assert "mend it" not in result.output
    assert invoke("gc", "--data", folder).exit_code == 0


@pytest.mark.box("S2.4", "prune")
def test_space_is_freed(folder: Path) -> None:
    FileBlobStore.open(folder / "blobs").put(b"nobody's")
    assert "would be removed" in invoke("gc", "--data", folder, "--dry-run").output
    told = json.loads(invoke("gc", "--data", folder, "-o", "json").output)
    assert told["removed"] == {"blobs": 1, "bytes": 8}
    result = invoke("gc", "--data", folder, "--max-bytes", 1)
    assert result.exit_code == FAILED
    assert "over the limit" in result.output


@pytest.mark.box("S2.4", "again", "durable")
def test_pins_are_added_listed_and_removed(folder: Path) -> None:
    assert "nothing is pinned" in invoke("pins", "list", "--data", folder).output
    assert "block 12" in invoke("pins", "add", 12, "--data", folder, "--note", "audit [2026]").output
    assert "audit [2026]" in invoke("pins", "list", "--data", folder).output
    (pin,) = json.loads(invoke("pins", "list", "--data", folder, "-o", "json").output)
    assert (pin["kind"], pin["height"], pin["note"]) == ("block", 12, "audit [2026]")
    assert "snapshot of this block is no longer stored" in invoke("pins", "add", 3, "--data", folder).output
    assert "no longer pinned" in invoke("pins", "remove", pin["hash"], "--data", folder).output
    assert invoke("pins", "remove", 12, "--data", folder).exit_code == FAILED


@pytest.mark.parametrize("command", [["check"], ["repair"], ["gc"]])
def test_a_node_that_runs_is_not_disturbed(folder: Path, chain: Chain, command: list[str]) -> None:
    ledger = Ledger.open(folder, chain.genesis)
    result = invoke(*command, "--data", folder)
    ledger.close()
    assert result.exit_code == FAILED
    assert "another process has this log open" in result.output


@pytest.mark.parametrize("command", [["check"], ["repair"], ["gc"], ["pins", "list"], ["pins", "add", "1"]])
def test_a_folder_of_nobody_is_refused(tmp_path: Path, command: list[str]) -> None:
    result = invoke(*command, "--data", tmp_path)
    assert result.exit_code == FAILED
    assert "is not the data folder of a node" in result.output
    assert list(tmp_path.iterdir()) == []
    assert invoke(*command).exit_code == USAGE
