"""The judge of histories, given right ones and ones with a mistake planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.integration.blackbox.checker import CHECKS, FEW, judge, recovery
from tests.integration.blackbox.history import Acknowledged, Block, History, Read, Trouble

NODES = ("v0", "v1", "v2", "v3")
HEIGHT = 20
PATIENCE = 10.0


def block(height: int, **changes: object) -> Block:
    """Two actions a block, one term for each five blocks."""
    made = Block(
        height=height,
        block_hash=f"hash-{height}",
        parent_hash=f"hash-{height - 1}",
        state_root=f"root-{height}",
        term=1 + height // 5,
        attempt=0,
        proposer=NODES[height // 5 % 4],
        actions=(f"a{height}", f"b{height}"),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def read(node: str, height: int, at: float, **changes: object) -> Read:
    made = Read(
        node=node,
        height=height,
        block_hash=f"hash-{height}",
        state_root=f"root-{height}",
        term=1 + height // 5,
        began=at,
        ended=at + 0.1,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def right() -> History:
    """A history in which a block is committed each second, read by all, and one node was killed."""
    blocks = [block(height) for height in range(1, HEIGHT + 1)]
    history = History()
    for one in blocks:
        for name in one.actions:
            history.sent[name] = one.height - 0.9
            ended = one.height + 0.05
            ack = Acknowledged(action_id=name, height=one.height, node="v0", began=ended - 0.95, ended=ended)
            history.acknowledged.append(ack)
    history.reads = [read(node, height, height + 0.1) for height in range(1, HEIGHT + 1) for node in NODES]
    history.follows = {node: [read(node, one.height, one.height) for one in blocks] for node in NODES}
    history.ledgers = {node: list(blocks) for node in NODES}
    history.troubles = [Trouble(kind="kill", nodes=("v1",), began=4.0, healed=6.0)]
    history.replayed = (HEIGHT, f"root-{HEIGHT}")
    return history


def everywhere(history: History, height: int, **changes: object) -> None:
    """Changes a block in the ledgers of all nodes, as if it had been decided so."""
    for ledger in history.ledgers.values():
        ledger[height - 1] = dataclasses.replace(ledger[height - 1], **changes)  # type: ignore[arg-type]


def lost(history: History) -> None:
    everywhere(history, 7, actions=("a7",))


def moved(history: History) -> None:
    everywhere(history, 7, actions=("a7",))
    everywhere(history, 8, actions=("a8", "b8", "b7"))


def doubled(history: History) -> None:
    everywhere(history, 9, actions=("a9", "b9", "a3"))


def doubled_in_a_block(history: History) -> None:
    everywhere(history, 9, actions=("a9", "b9", "a9"))


def invented(history: History) -> None:
    everywhere(history, 9, actions=("a9", "b9", "nobody-sent-this"))


def forked_reads(history: History) -> None:
    history.reads.append(read("v2", 11, 11.5, block_hash="another"))


def forked_ledger(history: History) -> None:
    history.ledgers["v3"][4] = block(5, block_hash="another")


def forked_follower(history: History) -> None:
    history.follows["v1"][4] = read("v1", 5, 5.0, block_hash="another")


def another_root(history: History) -> None:
    history.reads.append(read("v2", 11, 11.5, state_root="another"))


def gone_back(history: History) -> None:
    history.reads.append(read("v2", 9, 15.0))


def lower_term(history: History) -> None:
    history.reads.append(read("v2", 15, 15.5, term=1))


def skipped(history: History) -> None:
    del history.follows["v1"][6]


def handed_out_again(history: History) -> None:
    history.follows["v1"].insert(6, history.follows["v1"][5])


def sent_after_but_ordered_before(history: History) -> None:
    history.sent["a10"] = 15.0


def another_parent(history: History) -> None:
    everywhere(history, 12, parent_hash="hash-9")


def hole(history: History) -> None:
    for ledger in history.ledgers.values():
        del ledger[11]


def fenced_off(history: History) -> None:
    everywhere(history, 12, term=1, proposer="v0")


def two_writers(history: History) -> None:
    everywhere(history, 12, proposer="v1")


def after_the_turns(history: History) -> None:
    everywhere(history, 11, proposer="v1", attempt=3)


def behind(history: History) -> None:
    del history.ledgers["v3"][-1]


def replayed_to_another_root(history: History) -> None:
    history.replayed = (HEIGHT, "another")


def not_replayed(history: History) -> None:
    history.replayed = None


def stuck_for_long(history: History) -> None:
    history.acknowledged = [ack for ack in history.acknowledged if not 6 <= ack.ended < 18]


def stuck_for_ever(history: History) -> None:
    history.acknowledged = [ack for ack in history.acknowledged if ack.ended < 6]


def noted(history: History) -> None:
    history.noted.append(("EXIT", "v2"))


MISTAKES: list[tuple[Callable[[History], None], set[str]]] = [
    (lost, {"LOST"}),
    (moved, {"LOST"}),
    (doubled, {"DOUBLED"}),
    (doubled_in_a_block, {"DOUBLED"}),
    (invented, {"INVENTED"}),
    (forked_reads, {"FORK"}),
    (forked_ledger, {"FORK"}),
    (forked_follower, {"FORK"}),
    (another_root, {"FORK"}),
    (gone_back, {"BACK"}),
    (lower_term, {"BACK"}),
    (skipped, {"GAP"}),
    (handed_out_again, {"GAP"}),
    (sent_after_but_ordered_before, {"ORDER"}),
    (another_parent, {"LINK"}),
    (hole, {"LINK", "LOST"}),
    (fenced_off, {"STALE"}),
    (two_writers, {"STALE"}),
    (after_the_turns, {"STALE"}),
    (behind, {"UNEQUAL"}),
    (replayed_to_another_root, {"REPLAY"}),
    (not_replayed, {"REPLAY"}),
    (stuck_for_long, {"STUCK"}),
    (stuck_for_ever, {"STUCK"}),
    (noted, {"EXIT"}),
]


def checks_of(history: History) -> set[str]:
    return {violation.check for violation in judge(history, patience=PATIENCE)}


def test_a_right_history_has_no_violation() -> None:
    assert judge(right(), patience=PATIENCE) == []


def test_where_the_holder_decides_nothing_others_may_propose() -> None:
    history = right()
    for height, proposer in ((12, "v1"), (13, "v3"), (14, "v0")):
        everywhere(history, height, proposer=proposer, attempt=3)
    assert judge(history, patience=PATIENCE) == []


@pytest.mark.parametrize(("plant", "checks"), MISTAKES, ids=[plant.__name__ for plant, _ in MISTAKES])
def test_a_planted_mistake_is_named(plant: Callable[[History], None], checks: set[str]) -> None:
    history = right()
    plant(history)
    assert checks_of(history) == checks


def test_every_check_of_the_judge_has_a_planted_mistake() -> None:
    noted_by_the_runner = {"UNREADY", "SILENT", "TRACE", "ACCUSED"}
    assert set().union(*(checks for _, checks in MISTAKES)) | noted_by_the_runner == set(CHECKS)


def test_reads_at_the_same_time_may_come_in_any_order() -> None:
    history = right()
    history.reads.append(read("v2", 9, 10.15, ended=30.0))  # began before the read of 10 had ended
    assert checks_of(history) == set()


def test_an_action_that_nobody_was_told_of_may_be_lost_or_committed() -> None:
    history = right()
    history.sent |= {"never": 3.0, "unheard": 3.0}
    everywhere(history, 9, actions=("a9", "b9", "unheard"))
    assert checks_of(history) == set()


def test_two_answers_about_one_action_say_the_same_place() -> None:
    history = right()
    history.acknowledged.append(Acknowledged(action_id="a4", height=5, node="v2", began=8.0, ended=8.1))
    assert checks_of(history) == {"LOST"}


def test_a_trouble_that_another_follows_before_it_is_over_is_not_judged() -> None:
    history = right()
    stuck_for_long(history)
    history.troubles.append(Trouble(kind="freeze", nodes=("v2",), began=8.0, healed=17.5))
    assert checks_of(history) == set()


def test_recovery_is_counted_from_the_healing() -> None:
    history = right()
    assert recovery(history, history.troubles[0]) == pytest.approx(0.05)


def test_many_violations_of_one_kind_are_named_a_few_times() -> None:
    history = right()
    for height in range(1, HEIGHT + 1):
        everywhere(history, height, actions=())
    assert len(judge(history, patience=PATIENCE)) == FEW
