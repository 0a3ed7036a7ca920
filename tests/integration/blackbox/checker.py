"""Judges a history: names every way in which it is not that of one ledger to which each acknowledged action went once.

It knows nothing of how nodes decide, and reads nothing but the history.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS
from tests.integration.blackbox.history import Block, History, Read, Trouble

CHECKS = {
    "LOST": "an action that was acknowledged is not in the ledger, or not where the receipt said",
    "DOUBLED": "an action is in the ledger twice",
    "INVENTED": "an action is in the ledger that nobody sent",
    "ORDER": "an action was sent after another was acknowledged, and is in an earlier block or the same",
    "FORK": "two blocks of one height were shown",
    "BACK": "a node showed a head that is lower, or of a lower term, than one it had shown before",
    "GAP": "a follower was handed blocks that do not follow each other",
    "LINK": "a block does not follow its parent",
    "STALE": "a block has a lower term than its parent, or a term two holders, or one who writes after turns began",
    "UNEQUAL": "nodes have different ledgers in the end",
    "REPLAY": "replay from outside gives another head",
    "STUCK": "no action was acknowledged in time after all was healed",
    "UNREADY": "a node was not ready in time after all was healed",
    "SILENT": "a node without room for data did not say so",
    "EXIT": "a node ended that nobody had told to, or did not end well that was told to",
    "TRACE": "a node's log holds an error that nobody expected",
    "ACCUSED": "an honest validator is accused of having voted twice",
}
FEW = 5
"""Violations of one kind that are named; one mistake may show in ten thousand places."""


@dataclass(frozen=True)
class Violation:
    """Something that must not be: one of CHECKS, and where."""

    check: str
    says: str

    def __str__(self) -> str:
        return f"{self.check}: {self.says} ({CHECKS[self.check]})"


def judge(history: History, *, patience: float) -> list[Violation]:
    """Returns the violations of a history, a few of each kind; none when all is right.

    ``patience`` is for how many seconds after the end of the last fault nothing needs to be acknowledged.
    """
    ledger = max(history.ledgers.values(), key=len, default=[])
    found: list[Violation] = []
    checks = (
        _actions(history, ledger),
        _order(history),
        _forks(history),
        _backwards(history.reads),
        _gaps(history.follows),
        _chain(ledger),
        _equal(history.ledgers),
        _replay(history, ledger),
        _stuck(history, patience),
        (Violation(check, says) for check, says in history.noted),
    )
    for violations in checks:
        by_kind: dict[str, int] = {}
        for violation in violations:
            by_kind[violation.check] = by_kind.get(violation.check, 0) + 1
            if by_kind[violation.check] <= FEW:
                found.append(violation)
    return found


def _actions(history: History, ledger: Sequence[Block]) -> Iterator[Violation]:
    places: dict[str, int] = {}
    for block in ledger:
        for action_id in block.actions:
            if action_id in places:
                yield Violation("DOUBLED", f"{action_id} at heights {places[action_id]} and {block.height}")
            elif action_id not in history.sent:
                yield Violation("INVENTED", f"{action_id} at height {block.height}")
            places.setdefault(action_id, block.height)
    for ack in history.acknowledged:
        place = places.get(ack.action_id)
        if place != ack.height:
            where = "nowhere" if place is None else f"at height {place}"
            yield Violation("LOST", f"{ack.action_id}, of height {ack.height} as {ack.node} said, is {where}")


def _order(history: History) -> Iterator[Violation]:
    """Real time: what was acknowledged before an action was first sent is in an earlier block."""
    acks = sorted(history.acknowledged, key=lambda ack: ack.ended)
    ends = [ack.ended for ack in acks]
    highest = list(itertools.accumulate((ack.height for ack in acks), max))
    for ack in acks:
        before = bisect.bisect_left(ends, history.sent.get(ack.action_id, float("-inf")))
        if before and highest[before - 1] >= ack.height:
            yield Violation("ORDER", f"{ack.action_id} is in {ack.height}, sent after {highest[before - 1]} was seen")


def _forks(history: History) -> Iterator[Violation]:
    shown: dict[int, tuple[str, str, str]] = {}
    reads = itertools.chain(history.reads, *history.follows.values())
    seen: list[tuple[str, Read | Block]] = [(read.node, read) for read in reads if read.height]
    seen += [(node, block) for node, ledger in history.ledgers.items() for block in ledger]
    for node, item in seen:
        first = shown.setdefault(item.height, (item.block_hash, item.state_root, node))
        if first[:2] != (item.block_hash, item.state_root):
            says = f"{first[0][:12]} at {first[2]}, {item.block_hash[:12]} at {node}"
            yield Violation("FORK", f"height {item.height}: {says}")


def _backwards(reads: Sequence[Read]) -> Iterator[Violation]:
    """For each node: a read that began after another had ended shows no less."""
    for node in sorted({read.node for read in reads}):
        own = [read for read in reads if read.node == node]
        ended = sorted(own, key=lambda read: read.ended)
        ends = [read.ended for read in ended]
        highest = list(itertools.accumulate(((read.height, read.term) for read in ended), _most))
        for read in own:
            before = bisect.bisect_left(ends, read.began)
            if before and (read.height < highest[before - 1][0] or read.term < highest[before - 1][1]):
                height, term = highest[before - 1]
                yield Violation("BACK", f"{node}: {read.height} of term {read.term} after {height} of term {term}")


def _most(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), max(one[1], other[1])


def _gaps(follows: Mapping[str, Sequence[Read]]) -> Iterator[Violation]:
    for node, blocks in follows.items():
        for before, after in itertools.pairwise(blocks):
            if after.height != before.height + 1:
                yield Violation("GAP", f"{node} handed out {after.height} after {before.height}")


def _chain(ledger: Sequence[Block]) -> Iterator[Violation]:
    holders: dict[int, str] = {}
    for height, block in enumerate(ledger, 1):
        if block.height != height:
            yield Violation("LINK", f"height {block.height} stands in the place of {height}")
        if block.attempt < HOLDER_ATTEMPTS and holders.setdefault(block.term, block.proposer) != block.proposer:
            yield Violation("STALE", f"height {height}: {block.proposer} in the term of {holders[block.term]}")
    for parent, block in itertools.pairwise(ledger):
        if block.parent_hash != parent.block_hash:
            yield Violation("LINK", f"height {block.height} names another parent")
        if block.term < parent.term:
            yield Violation("STALE", f"height {block.height}: term {block.term} after {parent.term}")
        if block.term == parent.term and block.attempt < HOLDER_ATTEMPTS <= parent.attempt:
            yield Violation("STALE", f"height {block.height}: {block.proposer} after others had proposed in its term")


def _equal(ledgers: Mapping[str, Sequence[Block]]) -> Iterator[Violation]:
    tips = {node: ledger[-1] if ledger else None for node, ledger in ledgers.items()}
    if len(set(tips.values())) > 1:
        said = (f"{node} at {tip.height} {tip.state_root[:12]}" for node, tip in tips.items() if tip is not None)
        yield Violation("UNEQUAL", ", ".join(said))


def _replay(history: History, ledger: Sequence[Block]) -> Iterator[Violation]:
    if history.replayed is None:
        yield Violation("REPLAY", "it was not done")
    elif not ledger or history.replayed != (ledger[-1].height, ledger[-1].state_root):
        yield Violation("REPLAY", f"it gives height {history.replayed[0]} and root {history.replayed[1][:12]}")


def _stuck(history: History, patience: float) -> Iterator[Violation]:
    for trouble in history.troubles:
        took = recovery(history, trouble)
        again = any(trouble.healed < other.began < trouble.healed + (took or patience) for other in history.troubles)
        if not again and (took is None or took > patience):
            says = "never" if took is None else f"after {took:.1f} s"
            yield Violation("STUCK", f"{trouble.kind} of {', '.join(trouble.nodes)}: healed, and {says} an action")


def recovery(history: History, trouble: Trouble) -> float | None:
    """Returns the seconds from the end of a trouble to the next acknowledgement, None when there was none."""
    ends = [ack.ended for ack in history.acknowledged if ack.ended > trouble.healed]
    return min(ends) - trouble.healed if ends else None
