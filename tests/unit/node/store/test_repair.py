"""``repair``: what a folder has lost comes back from its log, from replicas, or by executing its blocks again."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from aiohttp import web

from agentworld_core.errors import AgentWorldError, InvalidField, NotAvailable
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_node.ledger import Ledger
from agentworld_node.ledger_recovery import Recovery
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import CorruptLog, FolderLocked
from agentworld_node.store.check import check
from agentworld_node.store.repair import RepairReport, repair
from agentworld_node.store.sources import FolderSource, source_of
from tests.unit.core.ledger.chains import Chain, make_genesis
from tests.unit.core.membership.worlds import first_directory
from tests.unit.node.store.folders import contents, files_below, flip, flip_blob, lose_blob, needed_blobs
from tests.unit.storage.blob_files import is_stored, stored_bytes, wipe_blob


def spoil(folder: Path, names: list[str], rng: random.Random) -> None:
    """Removes, empties, cuts or flips each of these blobs."""
    for name in names:
        match rng.randrange(3):
            case 0:
                lose_blob(folder, name)
            case 1:
                wipe_blob(folder / "blobs", name)
            case _:
                flip_blob(folder, name)


class Elsewhere:
    """A source with these blobs; it lies about those in ``wrong`` and cannot be asked when it is ``down``."""

    def __init__(self, blobs: dict[str, bytes], *, wrong: tuple[str, ...] = (), down: bool = False):
        self.name = "elsewhere"
        self.asked: list[str] = []
        self._blobs = blobs
        self._down = down

    async def fetch(self, blob_hash: str) -> bytes | None:
        self.asked.append(blob_hash)
        if self._down:
            raise NotAvailable("nobody there")
        return self._blobs.get(blob_hash)

    async def close(self) -> None:
        """Nothing to close."""


def assert_as_before(report: RepairReport, folder: Path, before: dict[str, bytes], chain: Chain) -> None:
    """Nothing is wrong, every blob of before is back, and the node starts where it was."""
    assert report.after.is_whole
    assert check(folder).is_whole
    assert contents(folder) == before
    ledger = Ledger.open(folder, chain.genesis)
    assert (ledger.height, ledger.chain.state_root) == (13, chain.state.state_root)
    assert [ledger.bundle(height) for height in range(1, 14)] == chain.bundles
    assert ledger.receipt(chain.bundles[3].batch.actions[0].action_id) == chain.executions[3].receipts[0]
    ledger.close()


class TestWithoutHelp:
    async def test_a_whole_folder_stays_as_it_is(self, folder: Path) -> None:
        before = files_below(folder)
        report = await repair(folder)
        assert (report.mended, report.notes, report.before.is_whole) == ({}, (), True)
        assert files_below(folder) == before

    @pytest.mark.box("S8.3", "mended")
    async def test_every_kind_of_blob_comes_back(self, folder: Path, chain: Chain) -> None:
        before = contents(folder)
        lost = list((needed_blobs(chain, 2) | needed_blobs(chain, 12)).values())
        spoil(folder, lost, random.Random(1))
        report = await repair(folder)
        assert report.mended["log"] == 4
        assert report.mended["execution"] == 5
        assert_as_before(report, folder, before, chain)

    @pytest.mark.parametrize("seed", range(12))
    async def test_whatever_is_lost_of_the_blobs_comes_back(self, folder: Path, chain: Chain, seed: int) -> None:
        rng = random.Random(seed)
        before = contents(folder)
        names = sorted(before)
        names.remove(genesis_hash(chain.genesis))
        spoil(folder, rng.sample(names, rng.choice((1, 5, 20, len(names)))), rng)
        settled = not check(folder).is_whole
        report = await repair(folder)
        if settled:
            assert_as_before(report, folder, before, chain)
        else:
            assert report.mended == {}, f"seed {seed}: the next start mends it"

    async def test_damaged_files_are_set_aside_also_those_that_nothing_needs(self, folder: Path, chain: Chain) -> None:
        store = FileBlobStore.open(folder / "blobs")
        loose, needed = store.put(b"nobody's"), needed_blobs(chain, 4)["batch"]
        store.close()
        flip_blob(folder, loose)
        flip_blob(folder, needed)
        damaged = {name: stored_bytes(folder / "blobs", name) for name in (loose, needed)}
        report = await repair(folder)
        assert report.after.is_whole
        for name, data in damaged.items():
            assert (folder / "blobs" / "quarantine" / name).read_bytes() == data
        assert report.after.quarantined.blobs == 2
        assert not is_stored(folder / "blobs", loose)

    async def test_it_executes_no_more_blocks_than_it_must(
        self, folder: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        heights: list[int] = []
        replay = Recovery.replay

        def counted(recovery, chain_state):
            for bundle, execution in replay(recovery, chain_state):
                heights.append(bundle.block.height)
                yield bundle, execution

        monkeypatch.setattr(Recovery, "replay", counted)
        lose_blob(folder, needed_blobs(chain, 10)["journal"])
        assert (await repair(folder)).after.is_whole
        assert heights == [10], "from the snapshot at height 9"
        heights.clear()
        lose_blob(folder, needed_blobs(chain, 8)["journal"])
        assert (await repair(folder)).after.is_whole
        assert heights == list(range(1, 9)), "snapshots that are not retained are not even looked for"
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []

    @pytest.mark.parametrize("how", ["garbage", "gone", "marked"])
    async def test_an_index_is_written_again_and_blocks_are_not_executed_for_it(
        self, folder: Path, chain: Chain, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, index = contents(folder), folder / "index.sqlite"
        match how:
            case "garbage":
                index.write_bytes(b"garbage" * 1000)
            case "gone":
                index.unlink()
            case _:
                (folder / "index.sqlite.is-damaged").touch()
        with monkeypatch.context() as patch:
            patch.setattr(Recovery, "replay", None)
            report = await repair(folder)
        assert report.after.snapshots == (9, 12)
        assert_as_before(report, folder, before, chain)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM blocks WHERE height = 4",
            "UPDATE blocks SET batch_hash = 'x' WHERE height = 4",
            "UPDATE blocks SET height = 40 WHERE height = 4",
            "UPDATE blocks SET certificate_hash = '" + "a" * 64 + "' WHERE height = 4",
            "DELETE FROM receipts WHERE height = 5",
            "DELETE FROM directories",
            "UPDATE directories SET hash = 'x'",
            "DELETE FROM meta WHERE key = 'genesis_hash'",
        ],
    )
    async def test_rows_of_the_index_are_mended(self, folder: Path, chain: Chain, statement: str) -> None:
        before = contents(folder)
        with sqlite3.connect(folder / "index.sqlite") as connection:
            connection.execute(statement)
        connection.close()
        report = await repair(folder)
        assert not report.before.is_whole
        assert report.mended["index rows"] >= 1
        assert_as_before(report, folder, before, chain)

    async def test_everything_but_the_log_may_be_lost(self, folder: Path, chain: Chain) -> None:
        before = contents(folder)
        shutil.rmtree(folder / "blobs")
        (folder / "index.sqlite").unlink()
        report = await repair(folder)
        assert any("--genesis" in note for note in report.notes)
        assert report.after.missing > 0
        report = await repair(folder, genesis=chain.genesis)
        assert report.after.is_whole
        Ledger.open(folder, chain.genesis).close()
        # Which older snapshots were retained, only the index knew.
        gone = {needed_blobs(chain, 9)["manifest"], needed_blobs(chain, 9)["chunk"]}
        assert {name for name in before if name not in contents(folder)} <= gone


class TestSources:
    async def test_what_replicas_have_need_not_be_executed(self, folder: Path, chain: Chain, tmp_path: Path) -> None:
        replica = Path(shutil.copytree(folder, tmp_path / "replica"))
        theirs = files_below(replica)
        before, lost = contents(folder), needed_blobs(chain, 12)
        spoil(folder, list(lost.values()), random.Random(2))
        report = await repair(folder, sources=[FolderSource(replica)])
        assert "execution" not in report.mended
        assert report.mended[str(replica)] >= 4
        assert_as_before(report, folder, before, chain)
        assert files_below(replica) == theirs

    @pytest.mark.box("S8.3", "mended")
    async def test_wrong_bytes_are_never_put_in_place(self, folder: Path, chain: Chain, tmp_path: Path) -> None:
        """Another replica may be damaged in the same place."""
        replica = Path(shutil.copytree(folder, tmp_path / "replica"))
        before, lost = contents(folder), needed_blobs(chain, 12)["manifest"]
        for place in (folder, replica):
            flip_blob(place, lost)
        report = await repair(folder, sources=[FolderSource(replica / "blobs")])
        assert "execution" in report.mended
        assert_as_before(report, folder, before, chain)

    @pytest.mark.box("S8.3", "mended")
    async def test_a_source_that_lies_is_refused_and_the_next_one_asked(self, folder: Path, chain: Chain) -> None:
        before, lost = contents(folder), needed_blobs(chain, 5)["journal"]
        lose_blob(folder, lost)
        liar, honest = Elsewhere({lost: b"something else"}), Elsewhere(before)
        report = await repair(folder, sources=[liar, honest])
        assert any("elsewhere" in note and "other bytes" in note for note in report.notes)
        assert (liar.asked, honest.asked) == ([lost], [lost])
        assert_as_before(report, folder, before, chain)

    async def test_a_source_that_does_not_answer_is_noted_once(self, folder: Path, chain: Chain) -> None:
        before = contents(folder)
        for height in (4, 5):
            lose_blob(folder, needed_blobs(chain, height)["receipts"])
        down = Elsewhere({}, down=True)
        report = await repair(folder, sources=[down])
        assert len(down.asked) == 1
        assert report.notes == ("elsewhere cannot be asked: nobody there",)
        assert_as_before(report, folder, before, chain)

    async def test_a_gateway_gives_what_it_has_and_its_lies_are_refused(self, folder: Path, chain: Chain) -> None:
        before = contents(folder)
        given, lied, absent = (needed_blobs(chain, height)["receipts"] for height in (4, 5, 6))
        for name in (given, lied, absent):
            lose_blob(folder, name)

        async def serve(request: web.Request) -> web.Response:
            name = request.match_info["hash"]
            if name == absent:
                return web.json_response({"error": {"code": "blob_not_found", "message": "no such blob"}}, status=404)
            return web.Response(body=b"something else" if name == lied else before[name])

        app = web.Application()
        app.add_routes([web.get("/v1/blobs/{hash}", serve)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        source = source_of(url)
        report = await repair(folder, sources=[source])
        await source.close()
        await runner.cleanup()
        assert report.mended == {url: 1, "execution": 2}
        assert_as_before(report, folder, before, chain)

    async def test_blobs_of_a_gateway_that_does_not_answer_come_from_elsewhere(
        self, folder: Path, chain: Chain
    ) -> None:
        before = contents(folder)
        lose_blob(folder, needed_blobs(chain, 5)["receipts"])
        source = source_of("http://127.0.0.1:9")
        report = await repair(folder, sources=[source])
        await source.close()
        assert report.notes[0].startswith("http://127.0.0.1:9 cannot be asked")
        assert_as_before(report, folder, before, chain)

    def test_a_source_that_is_no_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AgentWorldError, match="is not a folder"):
            source_of(str(tmp_path / "absent"))


class TestRefusals:
    async def test_a_folder_in_use_is_refused(self, folder: Path, chain: Chain) -> None:
        ledger = Ledger.open(folder, chain.genesis)
        with pytest.raises(FolderLocked):
            await repair(folder)
        ledger.close()

    async def test_a_genesis_of_another_world_is_refused(self, folder: Path, chain: Chain) -> None:
        lose_blob(folder, needed_blobs(chain, 5)["journal"])
        with pytest.raises(InvalidField, match="another world"):
            await repair(folder, genesis=make_genesis(first_directory({"a": 1})))

    async def test_a_damaged_log_is_refused_and_nothing_is_touched(self, folder: Path, chain: Chain) -> None:
        (log,) = (folder / "log").glob("*.wal")
        flip(log)
        flip_blob(folder, needed_blobs(chain, 4)["batch"])
        before = files_below(folder)
        with pytest.raises(CorruptLog):
            await repair(folder)
        assert files_below(folder) == before

    async def test_software_that_executes_otherwise_mends_nothing_wrongly(
        self, folder: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = needed_blobs(chain, 5)["journal"]
        lose_blob(folder, lost)
        executed = Recovery.replay

        def other(recovery, chain_state):
            for bundle, _ in executed(recovery, chain_state):
                wrong = chain.executions[0]
                yield bundle, wrong

        monkeypatch.setattr(Recovery, "replay", other)
        report = await repair(folder)
        assert [item.blob_hash for item in report.after.findings] == [lost]
        assert report.mended == {}
