"""The quorum arithmetic of the specification's worked example, by the rules of this product: weights, two fault models,
a threshold that follows the members both ways, and refusals that end a round and not a height.
"""

from __future__ import annotations

import itertools

import pytest

from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.consensus.events import BroadcastVote, Commit, RecordEvidence
from agentworld_core.membership.builder import Changes, next_directory, with_member, without_member
from agentworld_core.membership.changes import WantedMember, plan_members
from agentworld_core.membership.directory import (
    BYZANTINE,
    CRASH,
    check_next_directory,
    honest_weight,
    quorum_weight,
    total_weight,
)
from agentworld_core.membership.steps import PublishDirectory, Refused
from agentworld_core.messages import PRECOMMIT, PREVOTE, Directory
from tests.unit.core.consensus.bench import Bench, R, only, proposal, vote
from tests.unit.core.membership.worlds import first_directory, member, signed, successor

ROUND = R(1, 0)


def members(count: int, fault_model: str) -> Directory:
    """So many validators of weight 1, named a, b, and so on."""
    return first_directory(dict.fromkeys("abcdefg"[:count], 1), fault_model=fault_model)


def decided(directory: Directory, refusing: int) -> bool:
    """Lets so many validators refuse the block and all others vote for it; true when it is decided."""
    names = [item.member_id for item in directory.members]
    body = proposal(names[-1], ROUND)
    bench = Bench(directory=directory, holder=names[-1])
    bench.propose(body)
    against = names[len(names) - refusing :]
    for phase in (PREVOTE, PRECOMMIT):
        # Those who vote for it come last, so that nothing is decided before all have refused who will.
        for name in (*against, *(name for name in names[1:] if name not in against)):
            bench.hear(vote(name, ROUND, phase, None if name in against else body))
    commits = only(bench.effects, Commit)
    for commit in commits:
        check_certificate(commit.certificate, directory)
    return bool(commits)


@pytest.mark.parametrize(
    ("count", "fault_model", "needed"),
    [
        pytest.param(1, BYZANTINE, 1, marks=pytest.mark.box("29.1", "one")),
        pytest.param(1, CRASH, 1, marks=pytest.mark.box("29.1", "one")),
        pytest.param(2, BYZANTINE, 2, marks=pytest.mark.box("29.1", "two")),
        pytest.param(2, CRASH, 2, marks=pytest.mark.box("29.1", "two")),
        pytest.param(3, BYZANTINE, 3, marks=pytest.mark.box("29.1", "three")),
        pytest.param(3, CRASH, 2, marks=pytest.mark.box("29.1", "three")),
        pytest.param(4, BYZANTINE, 3, marks=pytest.mark.box("29.1", "four")),
        pytest.param(4, CRASH, 3, marks=pytest.mark.box("29.1", "four")),
        pytest.param(5, BYZANTINE, 4, marks=pytest.mark.box("29.1", "five")),
        pytest.param(5, CRASH, 3, marks=pytest.mark.box("29.1", "five")),
        pytest.param(7, BYZANTINE, 5, marks=pytest.mark.box("29.1", "seven")),
        pytest.param(7, CRASH, 4, marks=pytest.mark.box("29.1", "seven")),
    ],
)
def test_so_many_decide_and_so_many_refusals_are_borne(count: int, fault_model: str, needed: int) -> None:
    directory = members(count, fault_model)
    assert quorum_weight(directory) == needed
    borne = count - needed
    # With one validator alone, its own word is all there is.
    refusals = range(count) if count > 1 else [0]
    assert [refusing for refusing in refusals if decided(directory, refusing)] == list(range(borne + 1))


@pytest.mark.box("29.1", "weights")
@pytest.mark.parametrize(
    ("weights", "fault_model", "needed"),
    [
        ((5, 1, 1, 1), BYZANTINE, 6),
        ((5, 1, 1, 1), CRASH, 5),
        ((2, 2, 2, 3), BYZANTINE, 7),
        ((1, 1, 1, 10), BYZANTINE, 9),
        ((10**18, 10**18, 10**18), BYZANTINE, 2 * 10**18 + 1),
    ],
)
def test_it_is_weight_that_counts_in_integers(weights: tuple[int, ...], fault_model: str, needed: int) -> None:
    directory = first_directory(dict(zip("abcd", weights, strict=False)), fault_model=fault_model)
    assert quorum_weight(directory) == needed
    for size in range(len(weights) + 1):
        for chosen in itertools.combinations(directory.members, size):
            weight = sum(item.weight for item in chosen)
            rest = total_weight(directory) - weight
            assert not (weight >= needed and rest >= needed), "two quorums always share a validator"
            if fault_model == BYZANTINE and weight >= needed:
                assert rest < honest_weight(directory)


def joined(current: Directory, name: str) -> Directory:
    return successor(current, Changes(members=with_member(current, member(name))))


def left(current: Directory, name: str) -> Directory:
    return successor(current, Changes(members=without_member(current, name)))


@pytest.mark.box("29.1", "membership-sequence")
@pytest.mark.box("S27.1", "threshold-recomputed")
@pytest.mark.box("S27.4", "grow-and-shrink")
@pytest.mark.parametrize(("fault_model", "thresholds"), [(CRASH, [2, 3, 2, 2, 2, 1]), (BYZANTINE, [3, 3, 3, 3, 2, 1])])
def test_the_threshold_follows_the_members_up_and_down(fault_model: str, thresholds: list[int]) -> None:
    chain = [members(3, fault_model)]
    chain.append(joined(chain[-1], "d"))
    chain.append(left(chain[-1], "d"))
    chain.append(successor(chain[-1], Changes(members=tuple(member(name) for name in "xyz"))))
    chain.append(left(chain[-1], "z"))
    chain.append(left(chain[-1], "y"))
    for before, after in itertools.pairwise(chain):
        check_next_directory(before, after)
    assert [quorum_weight(item) for item in chain] == thresholds
    assert [len(item.members) for item in chain] == [3, 4, 3, 3, 2, 1]


@pytest.mark.box("29.1", "membership-sequence")
@pytest.mark.box("S27.1", "remove-last")
def test_the_last_one_stays_whoever_asks() -> None:
    step = plan_members([], members(1, CRASH), None, force=True)
    assert isinstance(step, Refused)
    assert step.reason == "LastMember"


@pytest.mark.box("S27.1", "replace")
def test_all_validators_are_replaced_at_once_by_force_alone() -> None:
    current = members(3, CRASH)
    wanted = [WantedMember(member(name), synced=True) for name in "xyz"]
    assert isinstance(plan_members(wanted, current, None), Refused)
    step = plan_members(wanted, current, None, force=True)
    assert isinstance(step, PublishDirectory)
    proposed = signed(next_directory(current, step.changes, now_ms=2000, reason=step.reason), "gov")
    check_next_directory(current, proposed)
    assert [item.member_id for item in proposed.members] == ["x", "y", "z"]
    assert quorum_weight(proposed) == 2


def three() -> Bench:
    """Three validators that may crash and do not lie: two of them decide, as in the specification."""
    return Bench(directory=members(3, CRASH), holder="b")


@pytest.mark.box("S25.3", "two-of-three")
def test_of_three_the_first_vote_decides_nothing_and_the_second_does() -> None:
    bench, body = three(), proposal("b", ROUND)
    bench.propose(body)
    assert not only(bench.effects, Commit), "its own vote alone"
    bench.hear(vote("b", ROUND, PREVOTE, body))
    assert not only(bench.effects, Commit), "nor with one precommit"
    (commit,) = only(bench.hear(vote("b", ROUND, PRECOMMIT, body)), Commit)
    assert [item.validator_id for item in commit.certificate.votes] == ["a", "b"]


@pytest.mark.box("S25.3", "two-rejections")
@pytest.mark.box("S25.1", "rejection-ends-the-round")
def test_two_refusals_of_three_end_the_round_and_the_height_goes_on() -> None:
    bench, body = three(), proposal("b", ROUND)
    bench.propose(body)
    bench.hear(*(vote(name, ROUND, phase, None) for phase in (PREVOTE, PRECOMMIT) for name in "bc"))
    bench.fire("precommit")
    assert not only(bench.effects, Commit)
    assert bench.engine.round == R(1, 1)
    again = proposal("b", R(1, 1), mark="another")
    bench.propose(again)
    bench.hear(vote("c", R(1, 1), PREVOTE, again))
    (commit,) = only(bench.hear(vote("c", R(1, 1), PRECOMMIT, again)), Commit)
    assert commit.block_hash == again.proposal.block_hash


@pytest.mark.box("S25.3", "same-height-other-hash")
def test_another_block_of_the_same_round_gets_no_vote_and_the_same_one_no_second() -> None:
    bench, body = three(), proposal("b", ROUND)
    assert only(bench.propose(body), BroadcastVote)
    assert not only(bench.propose(body), BroadcastVote)
    assert not only(bench.propose(proposal("b", ROUND, mark="another")), BroadcastVote)


@pytest.mark.box("S25.3", "decided-height")
def test_what_is_said_of_a_decided_height_changes_nothing() -> None:
    bench, body = three(), proposal("b", ROUND)
    bench.propose(body)
    bench.hear(*(vote("b", ROUND, phase, body) for phase in (PREVOTE, PRECOMMIT)))
    bench.start_height(2)
    for late in (proposal("b", ROUND, mark="another"), body):
        assert all(isinstance(effect, RecordEvidence) for effect in bench.propose(late)), "that it cheats is noted"
    assert bench.hear(vote("c", ROUND, PRECOMMIT, "e" * 64), vote("c", ROUND, PREVOTE, body)) == []
    assert bench.engine.height == 2


@pytest.mark.box("S25.1", "vote-again")
def test_a_vote_counts_once_however_often_it_comes() -> None:
    bench, body = Bench(), proposal("b", ROUND)
    bench.propose(body)
    for _ in range(3):
        bench.hear(vote("b", ROUND, PREVOTE, body))
    assert [item.vote.phase for item in only(bench.effects, BroadcastVote)] == [PREVOTE]
    bench.hear(vote("c", ROUND, PREVOTE, body))
    for _ in range(3):
        bench.hear(vote("b", ROUND, PRECOMMIT, body))
    assert not only(bench.effects, Commit)
    assert only(bench.hear(vote("c", ROUND, PRECOMMIT, body)), Commit)
