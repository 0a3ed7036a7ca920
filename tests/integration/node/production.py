"""A process that makes the blocks of one world and dies while it does, over and over on the same folder.

It reads lines ``FOLDER SEED MODE OPERATION`` and forks a life for each, which goes on from where the folder is: it
executes, proposes, votes and commits, makes and drops snapshots, and frees space in between. The life ends at the disk
operation of that number: with mode ``kill`` by SIGKILL, in the middle of a write where it is one, with mode ``fault``
by an error of the disk; with mode ``whole`` it makes all blocks. ``height N`` is printed once N is acknowledged.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agentworld_core.consensus.drafts import draft_proposal, draft_vote
from agentworld_core.ledger.block import block_hash_of, execute
from agentworld_core.messages import PRECOMMIT, PREVOTE, ActionEnvelope, BlockBundle, Round
from agentworld_core.signing import sign
from agentworld_core.world.modules.artifacts import split_artifact
from agentworld_core.world.modules.records import read_manifest
from agentworld_node import ledger_votes
from agentworld_node.ledger import Ledger
from agentworld_node.storage.errors import LogFailed, StorageFailed, StorageFull
from agentworld_node.storage.files import Closing, File, LocalFile, LocalFiles
from agentworld_node.store.collect import collect
from tests.unit.core.ledger.chains import VOTERS, Chain, header, make_genesis, resign
from tests.unit.core.ledger.module_chain import CODE, count
from tests.unit.core.membership.worlds import first_directory, signer
from tests.unit.core.world.agents import action, register
from tests.unit.core.world.modules.governed import FakeSandbox, manifest

KILL, FAULT, WHOLE = "kill", "fault", "whole"
SECONDS = 120
VOTE_SEGMENT_BYTES = 2_000  # so that they are pruned at every other height
FAILED = 3
_T = TypeVar("_T")


def a_sandbox() -> FakeSandbox:
    """A sandbox that runs both versions of the module."""
    sandbox = FakeSandbox()
    sandbox.add(CODE, count)
    sandbox.add(CODE * 2, count)
    return sandbox


class History:
    """The blocks that a run without any crash makes: proposals bring a module in, upgrade it and roll it back."""

    def __init__(self) -> None:
        directory = first_directory(dict.fromkeys(VOTERS, 1), governance=("gov",))
        self.chain = Chain(make_genesis(directory), sandbox=a_sandbox())
        self._nonces = dict.fromkeys(("one", "two", "ada"), 0)
        self._make()
        receipts = [receipt for execution in self.chain.executions for receipt in execution.receipts]
        assert all(receipt.ok for receipt in receipts), receipts

    @property
    def last(self) -> int:
        """The height of the last block."""
        return len(self.chain.bundles)

    def root(self, height: int) -> str:
        """The state root after a height."""
        return (
            self.chain.bundles[height - 1].block.state_root if height else self.chain.bundles[0].block.prev_state_root
        )

    def _act(self, actor: str, kind: str, payload: dict[str, Any]) -> ActionEnvelope:
        self._nonces[actor] += 1
        return action(actor, kind, payload, self._nonces[actor], key="" if actor == "ada" else "gov")

    def _move(self) -> ActionEnvelope:
        return self._act("ada", "agent.move", {"to": [self._nonces["ada"], 0]})

    def _make(self) -> None:
        chain, act = self.chain, self._act
        chain.commit(register("one", key="gov"), register("two", key="gov"), register("ada"))
        for number, (code, changes) in enumerate(_proposals(), 1):
            puts = [act("one", "artifact.put", piece) for piece in split_artifact(code)] if code else []
            base = read_manifest(chain.state.tree).hash
            chain.commit(*puts, act("one", "proposal.create", {"base": base, "changes": changes}))
            chain.commit(act("one", "proposal.shadow", {"proposal": number}), self._move())
            chain.commit(act("two", "proposal.approve", {"proposal": number}))
            chain.commit(self._move(), act("one", "proposal.apply", {"proposal": number}))
            chain.commit(self._move(), self._move())


def _proposals() -> list[tuple[bytes, dict[str, Any]]]:
    sandbox, fields = a_sandbox(), {"kind": "reducer", "subscriptions": [{"event_kinds": ["agent.moved"]}]}
    first, second = sandbox.add(CODE, count), sandbox.add(CODE * 2, count)
    one = manifest("counter", first, **fields)
    two = manifest("counter", second, version="2", **fields)
    upgrade = {
        "module_id": "counter", "from_version": "1.0.0", "to_version": "2", "wasm_hash": second, "manifest": two
    }  # fmt: skip
    return [
        (CODE, {"register": [one], "activate": [{"module_id": "counter", "version": "1.0.0"}]}),
        (CODE * 2, {"upgrade": [upgrade], "activate": [{"module_id": "counter", "version": "2"}]}),
        (b"", {"rollback": [{"module_id": "counter", "reason": "the numbers are wrong"}]}),
    ]


class DyingFiles(LocalFiles):
    """The file system of the operating system, until the operation with a number."""

    def __init__(self, mode: str, operation: int, rng: random.Random):
        self._mode = mode
        self._left = operation
        self._rng = rng
        self._guard = threading.Lock()

    def step(self, work: Callable[[], _T], *, part: Callable[[], object] = lambda: None) -> _T:
        """Does the work, or dies before, after, or after a part of it."""
        with self._guard:
            self._left -= 1
            if self._mode == WHOLE or self._left:
                return work()
            match self._rng.randrange(3):
                case 0:
                    work()
                case 1:
                    part()
            if self._mode == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self._rng.choice((errno.EIO, errno.ENOSPC)), "injected")

    def make_folder(self, path: Path) -> bool:
        return self.step(functools.partial(super().make_folder, path))

    def create(self, path: Path) -> File:
        return self._dying(self.step(functools.partial(os.open, path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)))

    def open(self, path: Path) -> File:
        return self._dying(os.open(path, os.O_RDWR))

    def rename(self, source: Path, target: Path) -> None:
        self.step(functools.partial(super().rename, source, target))

    def remove(self, path: Path) -> None:
        self.step(functools.partial(super().remove, path))

    def sync_folder(self, path: Path) -> None:
        self.step(functools.partial(super().sync_folder, path))

    def lock(self, path: Path) -> Closing:
        return super().lock(path)

    def _dying(self, descriptor: int) -> File:
        return _DyingFile(descriptor, self)


class _DyingFile(LocalFile):
    def __init__(self, descriptor: int, files: DyingFiles):
        super().__init__(descriptor)
        self._files = files

    def write_at(self, offset: int, data: bytes) -> None:
        write = super().write_at
        self._files.step(lambda: write(offset, data), part=lambda: write(offset, data[: len(data) // 2]))

    def truncate(self, size: int) -> None:
        self._files.step(functools.partial(super().truncate, size))

    def sync(self) -> None:
        self._files.step(super().sync)


class Life:
    """One process that goes on with a folder."""

    def __init__(self, history: History, folder: Path, rng: random.Random, files: DyingFiles):
        self._history = history
        self._folder = folder
        self._rng = rng
        self._files = files

    async def live(self) -> None:
        """Makes all blocks that are missing, and looks after the folder now and then."""
        done = False
        while not done:
            ledger = Ledger.open(self._folder, self._history.chain.genesis, sandbox=a_sandbox(), files=self._files)
            ledger.room_retry_seconds = 0.01
            try:
                ledger.retain(self._rng.randrange(1, 4))
                for _ in range(self._rng.randrange(3, 12)):
                    if ledger.height < self._history.last:
                        await self._produce(ledger)
                await ledger.settle()
                if ledger.failure is not None:
                    raise ledger.failure
                done = ledger.height == self._history.last
            finally:
                await ledger.settle()
                ledger.close()
            if self._rng.random() < 0.7:
                collect(self._folder, files=self._files, max_bytes=self._rng.choice((None, 0)))

    async def _produce(self, ledger: Ledger) -> None:
        """Makes the next block as a validator does: proposal and votes are durable before anybody could see them."""
        chain, height = ledger.chain, ledger.height + 1
        right = self._history.chain.bundles[height - 1]
        execution = execute(chain, right.batch, header(chain))
        block = resign(execution.block, "a")
        assert block == right.block, f"height {height} is another block than without a crash"
        directory, round_, found = chain.directory_at(height), Round(block.term, block.attempt), block_hash_of(block)
        kept = [vote for vote in ledger.durable_votes.votes if vote.height == height]
        assert {vote.block_hash for vote in kept} <= {found}, f"height {height}: a vote for another block is in the log"
        body = draft_proposal(
            directory, (block, right.batch), block_hash=found, round_=round_, since=None, proposer_id="a"
        )
        body = type(body)(proposal=sign(body.proposal, signer("a")), block=body.block, batch=body.batch)
        await ledger.store_proposal(body)
        for phase in (PREVOTE, PRECOMMIT):
            vote = draft_vote(directory, validator_id="a", height=height, round_=round_, phase=phase, block_hash=found)
            await ledger.store_vote(sign(vote, signer("a")), None)
        await ledger.apply(BlockBundle(block, right.batch, right.certificate), execution=execution)
        os.write(1, b"height %d\n" % height)
        if self._rng.random() < 0.5:
            await ledger.settle()


def _live(history: History, words: list[str]) -> int:
    """Lives once and returns the exit code; does not return at all where the life is cut short."""
    folder, seed, mode, operation = Path(words[0]), words[1], words[2], int(words[3])
    # The scheduler and the disk may hang; the test must not.
    signal.alarm(SECONDS)
    rng = random.Random(f"{seed} {operation}")
    try:
        asyncio.run(Life(history, folder, rng, DyingFiles(mode, operation, rng)).live())
    except StorageFailed as error:
        if mode != FAULT or type(error) not in (StorageFailed, StorageFull, LogFailed):
            raise
        sys.stderr.write(f"{mode} {operation}: {error.code}: {error}\n")
        return FAILED
    return 0


def main() -> None:
    """Forks a life for each line of the standard input."""
    ledger_votes.SEGMENT_BYTES = VOTE_SEGMENT_BYTES
    history = History()
    os.write(1, b"ready\n")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _live(history, line.split())
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        os.write(1, b"ended %d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
