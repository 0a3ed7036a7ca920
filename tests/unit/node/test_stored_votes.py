"""How votes are stored, and by whose votes a node counts at each height after a restart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agentworld_core.errors import Unauthorized
from agentworld_core.membership.builder import Changes, with_member, without_member
from agentworld_core.membership.directory import CRASH, quorum_weight
from agentworld_core.messages import PREVOTE, BlockBundle, Directory, Round
from agentworld_node.ledger import Ledger
from tests.unit.core.consensus.bench import proposal, vote
from tests.unit.core.ledger.chains import Chain, make_certificate, make_genesis
from tests.unit.core.membership.worlds import first_directory, member, successor


def commit(chain: Chain, voters: str, directory: Directory | None = None) -> None:
    """Makes the next block, certified by these alone."""
    chain.commit(directory=directory)
    chain.bundles[-1] = voted(chain.bundles[-1], voters)


def voted(bundle: BlockBundle, voters: str) -> BlockBundle:
    return dataclasses.replace(bundle, certificate=make_certificate(bundle.block, voters=voters))


@pytest.mark.box("S27.4", "grow-and-shrink")
@pytest.mark.box("S26.3", "round-trip")
@pytest.mark.box("S26.1", "epoch-of-each-vote")
async def test_what_was_decided_stays_and_the_quorum_is_that_of_the_new_members(tmp_path: Path) -> None:
    """Two of three decide until a fourth has joined, three of four from then on, two of three when it has left."""
    first = first_directory({"a": 1, "b": 1, "c": 1}, fault_model=CRASH)
    second = successor(first, Changes(members=with_member(first, member("d"))))
    third = successor(second, Changes(members=without_member(second, "d")))
    chain = Chain(make_genesis(first))
    commit(chain, "ab", second)
    commit(chain, "bc")
    commit(chain, "abd", third)
    commit(chain, "bcd")
    commit(chain, "ac")
    quorums = [2, 2, 3, 3, 2]
    for height, bundle in enumerate(chain.bundles, 1):
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert [ledger.bundle(below) for below in range(1, height)] == chain.bundles[: height - 1]
        assert quorum_weight(ledger.directory_at(height)) == quorums[height - 1]
        with pytest.raises(Unauthorized):
            await ledger.apply(voted(bundle, "abc"[: quorums[height - 1] - 1]))
        assert await ledger.apply(bundle)
        await ledger.settle()
        ledger.close()


def log_of(folder: Path) -> bytes:
    """All bytes of the log of votes, segment after segment."""
    return b"".join(path.read_bytes() for path in sorted((folder / "votes").glob("*.wal")))


@pytest.mark.box("S26.1", "records")
async def test_what_is_stored_is_added_and_what_was_there_stays_as_it_is(tmp_path: Path) -> None:
    chain = Chain()
    chain.commit()
    ledger = Ledger.open(tmp_path, chain.genesis)
    await ledger.apply(chain.bundles[0])
    body = proposal("a", Round(0, 0), height=2)
    for number in range(10):
        before = log_of(tmp_path)
        await ledger.store_vote(vote("a", Round(0, number), PREVOTE, body, height=2), None)
        added = len(log_of(tmp_path)) - len(before)
        assert log_of(tmp_path).startswith(before)
        assert 0 < added < 1000, "a vote costs the same however many there are"
    before = log_of(tmp_path)
    await ledger.store_proposal(body)
    assert log_of(tmp_path).startswith(before)
    ledger.close()
