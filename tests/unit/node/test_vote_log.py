"""The log of votes: what is signed above the commit is there after any crash, and what is behind it goes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from agentworld_core.codec import encode
from agentworld_core.consensus.events import DurableVotes, LockedValue
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import PRECOMMIT, PREVOTE, ProposalBody, Round, Vote
from agentworld_node import ledger_votes
from agentworld_node.ledger import Ledger
from agentworld_node.ledger_votes import VoteLog
from agentworld_node.records import COMMIT, PROPOSAL, REVOCATION, VOTE, VOTE_LOG, StoredVote
from agentworld_node.storage.errors import CorruptLog, FolderLocked, LogFailed, StorageFull, VotesMissing
from agentworld_node.storage.files import LOCAL_FILES
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.core.consensus.bench import proposal, vote
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.membership.worlds import statement
from tests.unit.node.crashed import let_go
from tests.unit.node.running import eventually
from tests.unit.storage.faults import CrashDisk, PowerCut

SEEDS = range(int(os.environ.get("CRASH_SEEDS", "30")))
LIVES = 6
LAST = 8


@pytest.fixture(scope="module")
def chain() -> Chain:
    made = Chain()
    for _ in range(LAST):
        made.commit()
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that a few votes fill."""
    monkeypatch.setattr(ledger_votes, "SEGMENT_BYTES", 1_000)


def signed(height: int, number: int) -> tuple[ProposalBody, Vote, Vote, LockedValue]:
    """What a validator signs in a round that goes well."""
    round_ = Round(0, number)
    body = proposal("a", round_, height=height)
    first = vote("a", round_, PREVOTE, body, height=height)
    return body, first, vote("a", round_, PRECOMMIT, body, height=height), LockedValue(round_, body, (first,))


async def sign_round(ledger: Ledger, height: int, number: int) -> None:
    body, prevote, precommit, lock = signed(height, number)
    await ledger.store_proposal(body)
    await ledger.store_vote(prevote, None)
    await ledger.store_vote(precommit, lock)


def durable_of(height: int, numbers: range) -> DurableVotes:
    """What comes back of these rounds of a height."""
    rounds = [signed(height, number) for number in numbers]
    return DurableVotes(
        votes=tuple(item for _, prevote, precommit, _ in rounds for item in (prevote, precommit)),
        proposals=tuple(body for body, _, _, _ in rounds),
        locks=tuple(lock for _, _, _, lock in rounds),
    )


def kinds(folder: Path) -> list[int]:
    with WriteAheadLog.open(folder) as wal:
        return [record.kind for record in wal.records()]


def damage_first_vote(folder: Path) -> None:
    """Flips a bit of a vote that a later one shows to have been durable, and removes what tells of it unread."""
    (segment,) = (folder / "votes").glob("*.wal")
    data = bytearray(segment.read_bytes())
    data[150] ^= 1
    segment.write_bytes(data)
    segment.with_suffix(".note").unlink()


def damage_last_block(folder: Path) -> None:
    """Takes a byte of the last record, and all that would tell of it."""
    (segment,) = (folder / "log").glob("*.wal")
    segment.write_bytes(segment.read_bytes()[:-1])
    segment.with_suffix(".note").unlink()
    (folder / "index.sqlite").unlink()


class TestPruning:
    @pytest.mark.box("S26.1", "pruned")
    @pytest.mark.usefixtures("small")
    async def test_what_is_behind_the_commit_goes_and_what_is_above_stays(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        sizes = []
        for height in range(1, LAST):
            await sign_round(ledger, height, 0)
            await ledger.apply(chain.bundles[height - 1])
            sizes.append(ledger._stores.votes.wal.size_bytes)
        assert max(sizes) < 3_000 < sizes[0] * LAST, "it does not grow with the chain"
        await sign_round(ledger, LAST, 0)
        await ledger.settle()
        ledger.close()
        assert set(kinds(tmp_path / "log")) & {VOTE, PROPOSAL} == set()
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.durable_votes == durable_of(LAST, range(1))
        again.close()

    @pytest.mark.usefixtures("small")
    async def test_a_height_that_is_not_decided_keeps_all_its_rounds(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        await sign_round(ledger, 1, 0)
        await ledger.apply(chain.bundles[0])
        for number in range(9):
            await sign_round(ledger, 2, number)
        assert ledger._stores.votes.wal.segment_count > 9
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.durable_votes == durable_of(2, range(9))
        again._stores.votes.release(1)
        again._stores.votes.prune()
        again.close()
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.durable_votes == durable_of(2, range(9)), "a restart has not forgotten what it needs"
        await again.apply(chain.bundles[1])
        await again.apply(chain.bundles[2])
        assert again._stores.votes.wal.segment_count == 1, "what was held before the restart goes with the rest"
        again.close()

    async def test_nothing_is_pruned_before_a_segment_is_full(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[VoteLog] = []
        monkeypatch.setattr(VoteLog, "prune", calls.append)
        ledger = Ledger.open(tmp_path, chain.genesis)
        for height in (1, 2, 3):
            await sign_round(ledger, height, 0)
            await ledger.apply(chain.bundles[height - 1])
        ledger.close()
        assert calls == []

    def test_records_of_later_heights_stay_wherever_they_are(self, tmp_path: Path, small: None) -> None:
        with WriteAheadLog.open(tmp_path / "log") as log:
            votes = VoteLog.open(tmp_path / "votes", log)
            votes.hold(2)
            for height in (1, 2, 1, 3, 1):
                votes.hold(height)
                votes.wal.append(VOTE, bytes(900))
                votes.wal.sync_now()
            assert not votes.release(1), "the first may come behind what is being written now"
            assert votes.release(2)
            votes.prune()
            assert votes.wal.first_sequence == 4
            assert votes.release(3)
            votes.prune()
            assert (votes.wal.first_sequence, votes.wal.segment_count) == (5, 1)
            votes.close()

    @pytest.mark.parametrize("operation", range(1, 14))
    def test_no_crash_while_it_is_pruned_loses_what_is_held(self, tmp_path: Path, small: None, operation: int) -> None:
        for seed in range(8):
            disk, folder = CrashDisk(tmp_path, seed=seed), tmp_path / "data"
            log = WriteAheadLog.open(folder / "log", files=disk)
            votes = VoteLog.open(folder / "votes", log, files=disk)
            for height in range(1, 9):
                votes.hold(height)
                votes.wal.append(VOTE, bytes([height]) * 900)
                votes.wal.sync_now()
            assert votes.release(5)
            disk.cut_power_in(operation)
            with contextlib.suppress(LogFailed):
                votes.prune()
            disk.crash()
            log = WriteAheadLog.open(folder / "log", files=disk)
            votes = VoteLog.open(folder / "votes", log, files=disk)
            left = [record.payload[0] for record in votes.wal.records()]
            assert left == list(range(left[0], 9))
            assert left[0] <= 6
            for wal in (votes, log):
                wal.close()

    @pytest.mark.usefixtures("small")
    async def test_the_votes_for_a_block_whose_record_is_damaged_later_are_still_there(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        await sign_round(ledger, 1, 0)
        await ledger.apply(chain.bundles[0])
        ledger.close()
        damage_last_block(tmp_path)
        again = Ledger.open(tmp_path, chain.genesis)
        assert (again.height, again.durable_votes) == (0, durable_of(1, range(1)))
        again.close()

    @pytest.mark.usefixtures("small")
    async def test_no_room_to_remove_a_segment_is_waited_out(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = [True]
        remove = LOCAL_FILES.remove

        def refusing(path: Path) -> None:
            if full and path.suffix == ".wal":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            remove(path)

        monkeypatch.setattr(LOCAL_FILES, "remove", refusing)
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.room_retry_seconds = 0.01
        await sign_round(ledger, 1, 0)
        await ledger.apply(chain.bundles[0])
        commit = asyncio.create_task(ledger.apply(chain.bundles[1]))
        await eventually(lambda: ledger.full)
        full.clear()
        assert await commit
        assert (ledger.full, ledger.failure, ledger._stores.votes.wal.segment_count) == (False, None, 1)
        ledger.close()

    @pytest.mark.usefixtures("small")
    async def test_a_disk_that_fails_while_it_is_pruned_ends_the_ledger_and_loses_no_block(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        disk = CrashDisk(tmp_path.parent)
        ledger = Ledger.open(tmp_path, chain.genesis, files=disk)
        await sign_round(ledger, 1, 0)
        await ledger.apply(chain.bundles[0])
        disk.failing_folder_syncs = 1
        with pytest.raises(LogFailed):
            await ledger.apply(chain.bundles[1])
        assert isinstance(ledger.failure, LogFailed)
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis, files=disk)
        assert again.height == 2
        again.close()


class TestStoring:
    async def test_a_vote_costs_one_sync_and_so_does_a_commit(self, tmp_path: Path, chain: Chain) -> None:
        disk = CrashDisk(tmp_path.parent)
        ledger = Ledger.open(tmp_path, chain.genesis, files=disk)
        body, prevote, precommit, lock = signed(1, 0)
        before = disk.file_syncs
        await ledger.store_proposal(body)
        await ledger.store_vote(prevote, None)
        await ledger.store_vote(precommit, lock)
        assert disk.file_syncs == before + 3
        await ledger.apply(chain.bundles[0])
        assert disk.file_syncs == before + 4
        ledger.close()

    async def test_a_vote_waits_for_room(self, tmp_path: Path, chain: Chain) -> None:
        disk = CrashDisk(tmp_path.parent)
        ledger = Ledger.open(tmp_path, chain.genesis, files=disk)
        ledger.room_retry_seconds = 0.01
        disk.capacity = disk.used()
        storing = asyncio.create_task(ledger.store_vote(signed(1, 0)[1], None))
        await eventually(lambda: ledger.full)
        assert not storing.done()
        disk.capacity = None
        await storing
        assert not ledger.full
        ledger.close()


class TestOpening:
    async def test_what_an_older_version_has_signed_comes_back(self, tmp_path: Path, chain: Chain) -> None:
        body, prevote, precommit, lock = signed(3, 0)
        records = [
            (VOTE, StoredVote(signed(1, 0)[1], None)),
            (COMMIT, chain.bundles[0]),
            (PROPOSAL, signed(2, 0)[0]),
            (COMMIT, chain.bundles[1]),
            (PROPOSAL, body),
            (VOTE, StoredVote(prevote, None)),
            (REVOCATION, statement("ab" * 16, "gov")),
        ]
        with WriteAheadLog.open(tmp_path / "log") as log:
            for kind, record in records:
                log.append(kind, encode(record))
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert ledger.durable_votes == DurableVotes(votes=(prevote,), proposals=(body,))
        await ledger.store_vote(precommit, lock)
        ledger.close()
        assert kinds(tmp_path / "votes") == [VOTE]
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.durable_votes == durable_of(3, range(1)), "of both logs"
        await again.apply(chain.bundles[2])
        again.close()
        last = Ledger.open(tmp_path, chain.genesis)
        assert last.durable_votes == DurableVotes()
        last.close()

    def test_no_crash_of_the_first_start_on_an_older_folder_keeps_the_next_from_it(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        prevote = signed(1, 0)[1]
        for operation in range(1, 40):
            folder = tmp_path / str(operation) / "data"
            folder.mkdir(parents=True)
            disk = CrashDisk(folder.parent, seed=operation)
            with WriteAheadLog.open(folder / "log", files=disk) as log:
                log.append(VOTE, encode(StoredVote(prevote, None)))
            disk.cut_power_in(operation)
            with contextlib.suppress(PowerCut, AgentWorldError):
                Ledger.open(folder, chain.genesis, files=disk).close()
            disk.crash()
            again = Ledger.open(folder, chain.genesis, files=disk)
            assert again.durable_votes.votes == (prevote,)
            again.close()

    async def test_a_log_of_votes_that_was_removed_is_missed(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        await sign_round(ledger, 1, 0)
        ledger.close()
        (tmp_path / "votes").rename(tmp_path / "aside")
        for how in ("gone", "empty"):
            if how == "empty":
                (tmp_path / "votes").mkdir()
            with pytest.raises(VotesMissing) as caught:
                Ledger.open(tmp_path, chain.genesis)
            assert str(tmp_path / "votes") in str(caught.value)
            assert "rotating the key" in str(caught.value)
        shutil.rmtree(tmp_path / "votes")
        (tmp_path / "aside").rename(tmp_path / "votes")
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.durable_votes == durable_of(1, range(1))
        again.close()
        assert kinds(tmp_path / "log").count(VOTE_LOG) == 1

    async def test_votes_above_what_the_log_has_show_that_it_has_lost_a_block(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        await ledger.apply(chain.bundles[0])
        await sign_round(ledger, 2, 0)
        ledger.close()
        shutil.rmtree(tmp_path / "log")
        (tmp_path / "index.sqlite").unlink()
        with pytest.raises(CorruptLog, match="it ends with block 0, and there are votes on 2"):
            Ledger.open(tmp_path, chain.genesis)

    async def test_votes_that_are_damaged_or_in_use_are_told_by_their_folder(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        await sign_round(ledger, 1, 0)
        ledger.close()
        with WriteAheadLog.open(tmp_path / "votes"), pytest.raises(FolderLocked, match="votes"):
            Ledger.open(tmp_path, chain.genesis)
        damage_first_vote(tmp_path)
        with pytest.raises(CorruptLog, match="file votes/"):
            Ledger.open(tmp_path, chain.genesis)

    async def test_no_room_for_a_log_of_votes_is_told(self, tmp_path: Path, chain: Chain) -> None:
        disk = CrashDisk(tmp_path.parent)
        WriteAheadLog.open(tmp_path / "log", files=disk).close()
        disk.capacity = disk.used()
        with pytest.raises(StorageFull):
            Ledger.open(tmp_path, chain.genesis, files=disk)
        disk.capacity = None
        Ledger.open(tmp_path, chain.genesis, files=disk).close()


class Validator:
    """Signs and commits on a disk that crashes, and remembers what it was told is durable."""

    def __init__(self, folder: Path, chain: Chain, seed: int):
        self.rng = random.Random(seed)
        self.disk = CrashDisk(folder.parent, seed=seed, sector=64)
        self.folder = folder
        self.chain = chain
        self.height = 0
        self.round = 0
        self.votes: list[Vote] = []
        self.proposals: list[ProposalBody] = []
        self.locks: list[LockedValue] = []
        self.pruned = 0

    async def live(self) -> None:
        ledger: Ledger | None = None
        try:
            ledger = Ledger.open(self.folder, self.chain.genesis, files=self.disk)
            self.check(ledger)
            while ledger.height < LAST:
                for _ in range(self.rng.randrange(3)):
                    await self.sign(ledger, ledger.height + 1)
                await ledger.apply(self.chain.bundles[ledger.height])
                self.height = ledger.height
                if self.rng.random() < 0.5:
                    await ledger.settle()
            await ledger.settle()
        finally:
            if ledger is not None:
                self.pruned += ledger._stores.votes.wal.first_sequence > 1
                await let_go(ledger)

    async def sign(self, ledger: Ledger, height: int) -> None:
        self.round += 1
        body, prevote, precommit, lock = signed(height, self.round)
        await ledger.store_proposal(body)
        self.proposals.append(body)
        await ledger.store_vote(prevote, None)
        self.votes.append(prevote)
        await ledger.store_vote(precommit, lock)
        self.votes.append(precommit)
        self.locks.append(lock)

    def check(self, ledger: Ledger) -> None:
        assert ledger.height >= self.height
        self.height = ledger.height
        kept, height = ledger.durable_votes, ledger.height
        assert [item for item in self.votes if item.height > height and item not in kept.votes] == []
        assert [item for item in self.proposals if item.proposal.height > height and item not in kept.proposals] == []
        assert [item for item in self.locks if item.body.block.height > height and item not in kept.locks] == []


@pytest.mark.box("S8.2", "promises")
@pytest.mark.box("S26.3", "crash-anywhere")
def test_no_crash_loses_a_vote_above_the_commit(tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = 0
    for seed in SEEDS:
        folder = tmp_path / str(seed) / "data"
        folder.mkdir(parents=True)
        validator = Validator(folder, chain, seed)
        monkeypatch.setattr(ledger_votes, "SEGMENT_BYTES", validator.rng.choice((200, 1_000, 3_000)))
        for life in range(LIVES + 1):
            if life < LIVES:
                validator.disk.cut_power_in(validator.rng.randrange(1, 150))
            try:
                asyncio.run(validator.live())
            except (PowerCut, AgentWorldError):
                assert validator.disk.is_off, f"seed {seed}, life {life}"
            kill = validator.rng.random() < 0.3
            validator.disk.kill() if kill else validator.disk.crash()
        assert validator.height == LAST
        pruned += validator.pruned
    assert pruned > len(SEEDS)
