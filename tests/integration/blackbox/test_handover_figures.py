"""What `make handover` measures and says, given histories and a writer that ends in one way or another."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any, cast

import pytest

from agentworld_core.topology.node_config import LeaseConfig
from tests.integration.blackbox import handover
from tests.integration.blackbox.checker import FEW, Violation
from tests.integration.blackbox.handover import Measured, first_seen, last_before, table, verdict
from tests.integration.blackbox.history import History, Read
from tests.integration.blackbox.world import Running

LEASE = LeaseConfig(duration_ms=3000, renew_deadline_ms=2000, retry_period_ms=500)
NAMES = ("v0", "v1", "v2")


def seen(node: str, height: int, at: float, term: int = 1) -> Read:
    block_hash, root = f"hash-{height}", f"root-{height}"
    return Read(node=node, height=height, block_hash=block_hash, state_root=root, term=term, began=at, ended=at)


class StubNode:
    """A writer that hands over when it is told to end, and ends with a status, or not before it is killed."""

    def __init__(self, world: StubWorld, status: int | None):
        self.world = world
        self.status = status
        self.did: list[str] = []

    def signal(self, number: signal.Signals) -> None:
        self.did.append(number.name)
        self.world.next_term(late=0.5)

    async def ended(self, *, seconds: float) -> int:
        if self.status is None:
            raise subprocess.TimeoutExpired("node", seconds)
        return self.status

    async def kill(self) -> None:
        self.did.append("kill")

    def start(self) -> None:
        self.did.append("start")


class StubWorld:
    """What a hand-over needs of a world: blocks that followers have seen, and a writer that can be ended."""

    def __init__(self, status: int | None = 0):
        self.history = History(follows={name: [seen(name, 1, time.monotonic())] for name in NAMES})
        self.node = StubNode(self, status)
        self.cluster = self
        self.nodes = NAMES
        self.term = 1

    def __getitem__(self, name: str) -> StubNode:
        assert name == "v0"
        return self.node

    async def writer(self, *, over: int) -> tuple[str, int]:
        assert over == self.term - 1, "a writer of a term that is over will not do"
        return "v0", self.term

    def next_term(self, *, late: float) -> None:
        """Has each follower see a block of the old term, and later one of the next."""
        now = max(time.monotonic(), *(blocks[-1].ended for blocks in self.history.follows.values()))
        self.term += 1
        for number, blocks in enumerate(self.history.follows.values()):
            height, lag = blocks[-1].height, number * 0.01
            blocks.append(seen("v0", height + 1, now + lag, self.term - 1))
            blocks.append(seen("v0", height + 2, now + late + lag, self.term))

    async def all_ready(self, *, seconds: float) -> dict[str, float]:
        return {}

    async def flows(self) -> None:
        pass


def as_world(stub: StubWorld) -> Running:
    return cast("Running", stub)


def mute(text: str) -> None:
    pass


async def test_a_stop_is_a_sigterm_counted_to_the_first_block_of_the_next_term() -> None:
    world, before = StubWorld(), time.monotonic()
    took = await handover.stop(as_world(world), 0, mute)
    assert 0.5 <= took <= time.monotonic() - before + 0.5
    assert world.node.did == ["SIGTERM", "start"]
    assert world.history.noted == []
    assert [(trouble.kind, trouble.nodes) for trouble in world.history.troubles] == [("stop", ("v0",))]


@pytest.mark.parametrize(
    ("status", "says", "did"),
    [
        (1, "v0 ends with status 1 after SIGTERM, see its log", ["SIGTERM", "start"]),
        (-11, "v0 ends with status -11 after SIGTERM, see its log", ["SIGTERM", "start"]),
        (None, "v0 does not end within 60 s of SIGTERM", ["SIGTERM", "kill", "start"]),
    ],
)
async def test_a_writer_that_does_not_stop_cleanly_is_a_violation(
    status: int | None, says: str, did: list[str]
) -> None:
    world = StubWorld(status)
    await handover.stop(as_world(world), 0, mute)
    assert world.history.noted == [("EXIT", says)]
    assert world.node.did == did


async def test_a_writer_that_is_killed_has_no_status_that_counts() -> None:
    world = StubWorld(-9)
    await handover.crash(as_world(world), 0, mute)
    assert world.node.did == ["SIGKILL", "start"]
    assert world.history.noted == []


async def test_all_three_ways_are_taken_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def transfer(world: object, number: int, say: object) -> float:
        return 0.1

    monkeypatch.setattr(handover, "transfer", transfer)
    world = StubWorld()
    measured = await handover.run(as_world(world), count=2, until_time=float("inf"), lease=LEASE, say=mute)
    assert [(row.way, len(row.seconds), row.goal) for row in measured] == [
        ("transfer", 2, 2.0),
        ("SIGTERM", 2, 2.0),
        ("SIGKILL", 2, 8.0),
    ]
    assert [name for name in world.node.did if name != "start"] == 2 * ["SIGTERM"] + 2 * ["SIGKILL"]


async def test_when_the_time_is_over_nothing_more_is_done_and_the_table_says_so() -> None:
    world = StubWorld()
    measured = await handover.run(as_world(world), count=2, until_time=0.0, lease=LEASE, say=mute)
    assert world.node.did == []
    assert [line.split()[:4] for line in table(measured)[1:]] == [
        [way, "0", "of", "2"] for way in ("transfer", "SIGTERM", "SIGKILL")
    ]
    assert all(line.endswith("not measured") for line in table(measured)[1:])


async def test_every_transfer_is_asked_for_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def by_command(world: Any, *, target: str, gateway: str) -> None:
        asked.append(target)
        world.next_term(late=0.25)

    monkeypatch.setattr(handover, "_transfer_by_command", by_command)
    world = StubWorld()
    took = [await handover.transfer(as_world(world), number, mute) for number in range(3)]
    assert took == pytest.approx([0.25, 0.25, 0.25])
    assert asked == ["v1", "v2", "v1"]


def test_a_block_counts_from_the_first_follower_that_saw_it() -> None:
    follows = {"v0": [seen("v0", 1, 1.0), seen("v0", 2, 2.5)], "v1": [seen("v1", 1, 0.5), seen("v1", 2, 3.0)], "v2": []}
    assert [read.ended for read in first_seen(follows, 1)] == [0.5, 2.5]
    assert [read.height for read in first_seen(follows, 2)] == [2]
    assert last_before(follows, follows["v0"][1], 1).ended == 0.5


def test_the_first_block_of_a_term_is_found_however_many_came_since() -> None:
    follows = {"v0": [seen("v0", height, float(height), 1 if height < 3 else 2) for height in range(1, 500)]}
    assert next(read.height for read in first_seen(follows, 2) if read.term > 1) == 3


def test_the_table_says_how_often_how_long_and_whether_the_goal_is_reached() -> None:
    rows = [
        Measured(way="transfer", planned=50, goal=2.0, seconds=[0.1] * 49 + [1.54]),
        Measured(way="SIGTERM", planned=50, goal=2.0, seconds=[0.1] * 29 + [2.01]),
    ]
    assert table(rows) == [
        "handover by     times     p50    p99    max  goal (seconds without a block)",
        "transfer     50 of 50    0.10   1.54   1.54  p99 <= 2.00: reached",
        "SIGTERM      30 of 50    0.10   2.01   2.01  p99 <= 2.00: MISSED",
    ]


def test_of_more_than_a_hundred_the_longest_is_not_the_99th_percentile() -> None:
    assert handover.p99([9.0] + [0.1] * 199) == 0.1


def test_the_verdict_counts_writes_that_are_stale_lost_and_doubled_and_bad_ends() -> None:
    assert verdict([]) == "handover: stale writes accepted 0, lost 0, doubled 0; ends that were not clean 0"
    found = [Violation("STALE", "")] + [Violation("LOST", "")] * 2 + [Violation("DOUBLED", "")] * FEW
    found += [Violation("EXIT", ""), Violation("GAP", "")]
    assert verdict(found) == (
        f"handover: stale writes accepted 1, lost 2, doubled {FEW} or more; ends that were not clean 1"
    )
