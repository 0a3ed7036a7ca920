"""Why a world moves or does not: one word for programs and one sentence for people, from what one node sees.

A sentence names facts that stay as they are while nothing changes, never times or rounds that pass: what shows it can
compare it with the last one and keep still. What lasts is asked before what passes: a world that tries again and again
for the same reason is told that reason, and not the step that it happens to be in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentworld_core.consensus.view import HeightView
from agentworld_core.messages import PRECOMMIT, PREVOTE

STALLED_MS = 10_000
"""A world with work that has committed nothing for this long does not move."""

IDLE, MOVING = "Idle", "Moving"
STARTING, NODE_FAILED, STORAGE_FULL, CATCHING_UP = "Starting", "NodeFailed", "StorageFull", "CatchingUp"
COMMITTING, FETCHING_BLOCK, PACING, BUILDING = "Committing", "FetchingBlock", "Pacing", "Building"
NO_QUORUM, NO_WRITER, WRITER_AWAY, LEASE_UNREACHABLE = "NoQuorum", "NoWriter", "WriterAway", "LeaseUnreachable"
UNKNOWN_WRITER = "UnknownWriter"
NO_PROPOSAL, JUDGING, BLOCK_REFUSED = "NoProposal", "Judging", "BlockRefused"
PREVOTES, PRECOMMITS, SPLIT_VOTES = "Prevotes", "Precommits", "SplitVotes"


@dataclass(frozen=True, kw_only=True)
class LeaseSight:
    """The writer lease as one node observes it; ``expires_in_ms`` None while nobody holds it, ``answers`` of its store.

    ``unchanged_ms`` is for how long term and holder have been the same.
    """

    holder: str | None
    term: int
    expires_in_ms: int | None = None
    unchanged_ms: int = 0
    answers: bool = True


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a node knows about the progress of its world; times are in milliseconds of its own monotonic clock.

    ``connected`` are the members it has a connection with, itself included. ``lease`` is None where there is none, or
    where this node does not see it (``leaseless`` tells which). ``waited_ms`` is for how long there has been something
    to decide and no commit, 0 while there is nothing.
    """

    view: HeightView | None
    connected: tuple[str, ...] = ()
    lease: LeaseSight | None = None
    leaseless: bool = False
    waited_ms: int = 0
    failure: str | None = None
    storage_full: bool = False
    behind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``state`` is one of the words of this module; ``stalled`` says that there is work and has been no commit."""

    state: str
    message: str
    stalled: bool = False

    def __str__(self) -> str:
        return self.message


def verdict(situation: Situation) -> Verdict:
    """Returns why the world moves or does not move, as far as this node can tell."""
    state, message = _own_trouble(situation) or _progress(situation)
    always = (NODE_FAILED, STORAGE_FULL)
    stalled = state in always or (state != IDLE and situation.waited_ms >= STALLED_MS)
    return Verdict(state=state, message=message, stalled=stalled)


def world_verdict(reports: Iterable[tuple[int, str, Verdict]]) -> Verdict | None:
    """Returns what the nodes together say of their world, each with its height and name; None when nobody answers.

    Only the word of those with the highest head counts, since what holds one node up need not hold the world up. The
    world is stalled when more than half of them say so. Of several reasons the most frequent one is given, in the words
    of the node that comes first by name, so that the same answers in another order give the same verdict.
    """
    given = sorted(reports, key=lambda report: report[1])
    top = max((height for height, _, _ in given), default=0)
    leading = [item for height, _, item in given if height == top]
    if not leading:
        return None
    stalled = [item for item in leading if item.stalled]
    if len(stalled) * 2 > len(leading):
        return _most_frequent(stalled)
    going = [item for item in leading if not item.stalled]
    if all(item.state == IDLE for item in going):
        return going[0]
    return Verdict(state=MOVING, message="blocks are being decided")


def _own_trouble(situation: Situation) -> tuple[str, str] | None:
    if situation.failure is not None:
        return NODE_FAILED, f"this node cannot go on until it is started again: {situation.failure}"
    if situation.storage_full:
        return STORAGE_FULL, "the data folder of this node is full; free space or enlarge the volume"
    if situation.view is None:
        return STARTING, "this node is starting"
    if situation.behind is not None:
        return CATCHING_UP, f"this node is not at the head ({situation.behind}); ask another one"
    return None


def _progress(situation: Situation) -> tuple[str, str]:
    view = situation.view
    if view is None:
        return STARTING, "this node is starting"
    if view.decided:
        return COMMITTING, f"height {view.height} is decided and is being written"
    if view.unknown_decided is not None:
        return FETCHING_BLOCK, f"height {view.height} is decided; this node fetches its block"
    if not view.active:
        return IDLE, "idle: no actions wait"
    return _quorum(situation, view) or _writer(situation, view) or _round(view)


def _quorum(situation: Situation, view: HeightView) -> tuple[str, str] | None:
    known = [item for item in view.ballots if item.heard or item.validator_id in situation.connected]
    weight = sum(item.weight for item in known)
    if weight >= view.quorum:
        return None
    missing = _names([item.validator_id for item in view.ballots if item not in known])
    if view.is_uniform():
        return NO_QUORUM, f"{weight} of {view.total} validators are in touch and {view.quorum} are needed: no {missing}"
    return NO_QUORUM, f"weight {weight} of {view.total} is in touch and {view.quorum} is needed: no {missing}"


def _writer(situation: Situation, view: HeightView) -> tuple[str, str] | None:
    if view.proposal is not None:
        return None
    lease = situation.lease
    if view.in_turn and not situation.leaseless:
        return _turns(lease)
    if lease is not None and not situation.leaseless and (trouble := _lease(lease, view)):
        return trouble
    whose = view.may_propose or (None if lease is None else lease.holder)
    if whose is not None and whose != view.own_id and whose not in situation.connected:
        return WRITER_AWAY, f"{whose} has the turn to propose and is not in touch with this node"
    if not view.open:
        return PACING, "the next block waits for the block interval to pass"
    if whose is not None and whose == view.own_id:
        if view.step in ("prevote", "precommit"):
            return NO_PROPOSAL, "this node had no block in time; the next attempt follows"
        return BUILDING, "this node builds the next block"
    return NO_PROPOSAL, f"waits for the proposal of {whose or 'the writer'}"


def _turns(lease: LeaseSight | None) -> tuple[str, str]:
    state, cause = NO_PROPOSAL, "nothing came of the attempts of the lease's holder"
    if lease is not None:
        state, cause = _no_holder(lease) or (state, cause)
    return state, f"{cause}; the validators propose in turn"


def _no_holder(lease: LeaseSight) -> tuple[str, str] | None:
    if not lease.answers:
        return LEASE_UNREACHABLE, "the store of the writer lease does not answer this node"
    if lease.holder is None:
        return NO_WRITER, "nobody holds the writer lease"
    return None


def _lease(lease: LeaseSight, view: HeightView) -> tuple[str, str] | None:
    if trouble := _no_holder(lease):
        return trouble
    if lease.holder not in [item.validator_id for item in view.ballots]:
        says = f"the writer lease names {lease.holder}, which is no validator; one takes it once it has expired"
        return UNKNOWN_WRITER, says
    return None


def _round(view: HeightView) -> tuple[str, str]:
    prevotes, precommits = (_agreed(view, phase) for phase in (PREVOTE, PRECOMMIT))
    if view.found_right is False:
        return BLOCK_REFUSED, f"this node found the block of {view.proposer or 'the writer'} wrong and votes for none"
    if precommits == view.quorum:
        return COMMITTING, f"height {view.height} is decided and is being written"
    if prevotes < view.quorum:
        if view.weight(PREVOTE) >= view.quorum:
            return SPLIT_VOTES, "the prevotes do not agree on one block; the next attempt follows"
        if view.found_right is None and view.own_id in view.missing(PREVOTE):
            return JUDGING, f"this node executes the block of {view.proposer or 'the writer'}"
        return PREVOTES, _waits(view, PREVOTE, "prevotes")
    if view.weight(PRECOMMIT) >= view.quorum:
        return SPLIT_VOTES, "the precommits do not agree on one block; the next attempt follows"
    return PRECOMMITS, _waits(view, PRECOMMIT, "precommits")


def _agreed(view: HeightView, phase: int) -> int:
    """Returns the weight behind the proposal in a phase, at most the quorum."""
    votes = [(ballot.weight, ballot.vote(phase)) for ballot in view.ballots]
    weight = sum(weight for weight, vote in votes if vote is not None and vote.block_hash == view.proposal)
    return min(weight, view.quorum)


def _waits(view: HeightView, phase: int, what: str) -> str:
    lacking = view.quorum - view.weight(phase)
    unit = "" if view.is_uniform() else "weight "
    return f"waits for {unit}{lacking} more of {view.quorum} {what}: {_names(view.missing(phase))} missing"


def _names(names: list[str], *, limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _most_frequent(found: list[Verdict]) -> Verdict:
    counts: dict[str, int] = {}
    for item in found:
        counts[item.state] = counts.get(item.state, 0) + 1
    best = max(counts, key=lambda state: counts[state])
    return next(item for item in found if item.state == best)
