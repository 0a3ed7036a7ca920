"""The lease loop: one holder at a time whatever the store does, and nobody waits longer than needed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from agentworld_core.errors import NotAvailable, StateMismatch
from agentworld_core.ordering.lease import LeaseRecord, LeaseTimings, LeaseWrite
from agentworld_node.lease.loop import LeaseLoop
from agentworld_node.lease.memory import MemoryLease
from tests.unit.node.virtual import run_virtually

TIMINGS = LeaseTimings(duration_ms=3000, renew_deadline_ms=2000, retry_ms=500)
DURATION, DEADLINE, RETRY = 3.0, 2.0, 0.5


class Shelf:
    """One record in memory, and everything that was written."""

    def __init__(self) -> None:
        self.lease = MemoryLease()
        self.writes: list[tuple[float, LeaseRecord]] = []
        self.watched = True

    def store(self) -> Store:
        return Store(self)


class Store:
    """One node's way to the shelf, which may be slow, broken or silent."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf
        self._store = shelf.lease.store()
        self.before: Callable[[], Awaitable[None]] = self.at_once
        self.reads = 0

    async def at_once(self) -> None:
        return

    async def broken(self) -> None:
        raise NotAvailable("gone")

    async def silent(self) -> None:
        await asyncio.sleep(3600)

    async def slow(self) -> None:
        await asyncio.sleep(RETRY / 2)

    async def read(self) -> LeaseRecord | None:
        self.reads += 1
        await self.before()
        return await self._store.read()

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        await self.before()
        record = await self._store.write(wanted)
        if record is not None:
            self.shelf.writes.append((asyncio.get_running_loop().time(), record))
        return record

    async def changed(self) -> None:
        await (self._store.changed() if self.shelf.watched else self.silent())


class Candidate:
    """A node that wants the lease; remembers what it was told and when."""

    def __init__(self, name: str, shelf: Shelf):
        self.name = name
        self.store = shelf.store()
        self.wanted = True
        self.floor = 0
        self.views: list[tuple[float, int, str | None]] = []
        self.loop = LeaseLoop(
            node_id=name,
            store=self.store,
            timings=TIMINGS,
            wanted=lambda: self.wanted,
            term_floor=lambda: self.floor,
        )
        self.loop.on_view = self.saw
        self.task: asyncio.Task[None] | None = None

    def saw(self, term: int, holder: str | None) -> None:
        self.views.append((asyncio.get_running_loop().time(), term, holder))

    def start(self) -> Candidate:
        self.task = asyncio.create_task(self.loop.run())
        return self

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task


async def watch(candidates: list[Candidate], seconds: float) -> None:
    """Lets time pass, and checks all along that no two of them believe to hold the lease."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        holders = [one.name for one in candidates if one.loop.is_held]
        assert len(holders) <= 1, holders
        await asyncio.sleep(RETRY / 20)


def holder(candidates: list[Candidate]) -> Candidate | None:
    return next((one for one in candidates if one.loop.is_held), None)


def check_terms(shelf: Shelf) -> None:
    """Terms only grow, and no two holders ever have the same."""
    terms = [(record.term, record.holder) for _, record in shelf.writes]
    assert [term for term, _ in terms] == sorted(term for term, _ in terms)
    owners: dict[int, str] = {}
    for term, name in terms:
        if name is not None:
            assert owners.setdefault(term, name) == name


@pytest.mark.box("S5.3", "renew-extends")
def test_one_acquires_renews_and_keeps_the_term() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        one = Candidate("a", shelf).start()
        await watch([one], 20)
        assert one.views == [(one.views[0][0], 1, "a")]
        assert {record.term for _, record in shelf.writes} == {1}
        times = [time for time, _ in shelf.writes]
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) < DEADLINE
        await one.stop()

    run_virtually(scenario())


@pytest.mark.box("S5.3", "compare-and-swap")
def test_many_race_and_one_wins() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        candidates = [Candidate(name, shelf).start() for name in "abcdef"]
        for one in candidates:
            one.store.before = one.store.slow
        await watch(candidates, 30)
        winner = holder(candidates)
        assert winner is not None
        assert {one.loop.view for one in candidates} == {(1, winner.name)}
        check_terms(shelf)
        for one in candidates:
            await one.stop()

    run_virtually(scenario())


@pytest.mark.box("S5.3", "early-stop")
@pytest.mark.parametrize("trouble", ["broken", "silent"])
def test_a_holder_cut_off_from_the_store_stops_before_anybody_else_can_begin(trouble: str) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        first, second = Candidate("a", shelf).start(), Candidate("b", shelf)
        await watch([first], 5)
        second.start()
        await watch([first, second], 5)
        first.store.before = getattr(first.store, trouble)
        await watch([first, second], 10)
        lost = next(time for time, _, name in first.views if name is None)
        taken = next(time for time, term, name in second.views if (term, name) == (2, "b"))
        last_renewal = max(time for time, record in shelf.writes if record.holder == "a")
        assert lost <= last_renewal + DEADLINE + 0.01
        assert lost < taken
        check_terms(shelf)
        first.store.before = first.store.at_once
        await watch([first, second], 10)
        assert first.loop.view == (2, "b")
        await first.stop()
        await second.stop()

    run_virtually(scenario())


@pytest.mark.box("S5.3", "store-away")
def test_when_the_store_is_gone_for_all_nobody_writes_and_then_somebody_does() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        candidates = [Candidate(name, shelf).start() for name in "abc"]
        await watch(candidates, 5)
        for one in candidates:
            one.store.before = one.store.broken
        await watch(candidates, 10)
        assert holder(candidates) is None
        for one in candidates:
            one.store.before = one.store.at_once
        await watch(candidates, 10)
        assert holder(candidates) is not None
        check_terms(shelf)
        for one in candidates:
            await one.stop()

    run_virtually(scenario())


@pytest.mark.box("S5.3", "acquire-release")
@pytest.mark.parametrize("speed", ["at_once", "slow"])
def test_a_lease_that_is_given_up_is_taken_at_once(speed: str) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        candidates = [Candidate(name, shelf).start() for name in "ab"]
        await watch(candidates, 5)
        for one in candidates:
            one.store.before = getattr(one.store, speed)
        # In the middle of a renewal as well as between two.
        await watch(candidates, RETRY / 2 if speed == "slow" else 1.1)
        old = holder(candidates)
        assert old is not None
        before = asyncio.get_running_loop().time()
        await old.loop.release()
        assert not old.loop.is_held
        await watch(candidates, DURATION * 0.6)
        new = holder(candidates)
        assert new is not None
        assert new is not old
        taken = next(time for time, _, name in new.views if name == new.name)
        assert taken - before < DURATION / 2, "nobody waited for the lease to expire"
        check_terms(shelf)
        for one in candidates:
            await one.stop()

    run_virtually(scenario())


@pytest.mark.parametrize("speed", ["at_once", "slow"])
def test_a_lease_that_is_handed_over_goes_to_who_was_named_although_others_wait_for_it(speed: str) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        candidates = {name: Candidate(name, shelf).start() for name in "abcdef"}
        everybody = list(candidates.values())
        await watch(everybody, 5)
        for one in everybody:
            one.store.before = getattr(one.store, speed)
        for named in "fbecda":
            old = holder(everybody)
            assert old is not None
            new = candidates[named]
            if new is old:
                continue
            before = asyncio.get_running_loop().time()
            term = await old.loop.hand_over(named)
            assert not old.loop.is_held
            assert await new.loop.taken() == term == old.views[-1][1]
            assert asyncio.get_running_loop().time() - before < DURATION
            await watch(everybody, 1.3)
            assert holder(everybody) is new
        check_terms(shelf)
        for one in everybody:
            await one.stop()

    run_virtually(scenario())


def test_a_hand_over_to_who_is_not_there_costs_one_duration() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        candidates = [Candidate(name, shelf).start() for name in "ab"]
        await watch(candidates, 5)
        old = holder(candidates)
        assert old is not None
        await old.loop.hand_over("gone")
        await watch(candidates, DURATION * 0.9)
        assert holder(candidates) is None
        await watch(candidates, DURATION)
        assert holder(candidates) is not None
        check_terms(shelf)
        for one in candidates:
            await one.stop()

    run_virtually(scenario())


def test_a_hand_over_that_cannot_be_written_leaves_the_lease_where_it_is() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        one, other = Candidate("a", shelf).start(), Candidate("b", shelf)
        await watch([one], 2)
        one.store.before = one.store.broken
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.loop.hand_over("b"), 0.5)
        one.store.before = one.store.at_once
        await watch([one], RETRY * 3)
        assert one.loop.is_held
        with pytest.raises(StateMismatch, match="does not hold the lease"):
            await other.loop.hand_over("c")
        assert {record.holder for _, record in shelf.writes} == {"a"}
        await one.stop()

    run_virtually(scenario())


@pytest.mark.box("S5.3", "lost-cannot-renew")
def test_releasing_what_another_holds_asks_once_and_changes_nothing() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        first, second = Candidate("a", shelf).start(), Candidate("b", shelf)
        await watch([first], 2)
        writes = len(shelf.writes)
        await second.loop.release()
        assert second.store.reads == 1
        assert len(shelf.writes) == writes
        await first.stop()

    run_virtually(scenario())


def test_who_is_not_fit_gives_it_up_and_does_not_take_it_back_while_others_may() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        candidates = [Candidate(name, shelf).start() for name in "ab"]
        await watch(candidates, 5)
        old = holder(candidates)
        assert old is not None
        old.wanted = False
        await watch(candidates, 2)
        old.wanted = True
        await watch(candidates, 5)
        assert holder(candidates) is not old
        for one in candidates:
            await one.stop()

    run_virtually(scenario())


@pytest.mark.box("S5.3", "above-the-chain")
def test_a_term_below_the_chain_is_taken_anew_above_it() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        one = Candidate("a", shelf).start()
        await watch([one], 2)
        one.floor = 41
        await watch([one], 2)
        assert one.loop.view == (42, "a")
        await one.stop()

    run_virtually(scenario())


def test_pokes_read_at_once_and_however_many_there_are_only_so_often() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        holding, watching = Candidate("a", shelf).start(), Candidate("b", shelf)
        watching.wanted = False
        watching.start()
        await watch([holding, watching], 2)
        reads = watching.store.reads
        for _ in range(1000):
            watching.loop.poke()
            await asyncio.sleep(0.001)
        assert watching.store.reads - reads <= 25
        await holding.loop.release()
        watching.loop.poke()
        await asyncio.sleep(0.1)
        assert watching.loop.view == (1, None)
        await holding.stop()
        await watching.stop()

    run_virtually(scenario())


def test_what_others_write_is_read_at_once_and_what_one_writes_oneself_is_not() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        holding, watching = Candidate("a", shelf).start(), Candidate("b", shelf)
        watching.wanted = False
        watching.start()
        await watch([holding, watching], 5)
        renewals = len(shelf.writes)
        read, own = watching.store.reads, holding.store.reads
        await watch([holding, watching], 5)
        renewals = len(shelf.writes) - renewals
        assert renewals <= watching.store.reads - read <= 2 * renewals + 1
        assert holding.store.reads - own <= renewals + 1
        before = asyncio.get_running_loop().time()
        await holding.loop.release()
        await asyncio.sleep(0.1)
        assert watching.views[-1][1:] == (1, None)
        assert watching.views[-1][0] - before < 0.1
        await holding.stop()
        await watching.stop()

    run_virtually(scenario())


@pytest.mark.parametrize("watched", [True, False])
def test_a_lease_that_lapses_is_taken_a_duration_after_its_last_renewal_was_seen(watched: bool) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.watched = watched
        first, second = Candidate("a", shelf).start(), Candidate("b", shelf)
        await watch([first], 1.2)
        second.start()
        await watch([first, second], 5)
        await first.stop()
        last = max(time for time, record in shelf.writes if record.holder == "a")
        await watch([second], DURATION + 2 * RETRY)
        taken = next(time for time, term, name in second.views if (term, name) == (2, "b"))
        assert DURATION <= taken - last <= DURATION + (0.06 if watched else RETRY + 0.06)
        await second.stop()

    run_virtually(scenario())
