"""What every store of the writer lease promises, as checks that the tests of each store run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseRecord, LeaseTimings, LeaseWrite
from agentworld_node.lease.loop import LeaseLoop
from agentworld_node.lease.port import LeaseStore
from tests.unit.node.running import PATIENCE, eventually

DURATION_MS = 15_000
TIMINGS = LeaseTimings(duration_ms=3000, renew_deadline_ms=2000, retry_ms=300)
QUIET_SECONDS = 0.5
"""A store that tells nothing for so long has nothing to tell."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one lease is kept that nobody has ever held; ``store`` makes another node's way to it."""

    store: Callable[[], LeaseStore]
    cut_off: Callable[[], None]
    """Takes the place away from all stores."""


Check = Callable[[Place], Awaitable[None]]


def wanted(holder: str | None, term: int, after: LeaseRecord | None, *, duration_ms: int = DURATION_MS) -> LeaseWrite:
    """What a node writes in the place of the record that it has read."""
    version = None if after is None else after.version
    return LeaseWrite(holder=holder, term=term, duration_ms=duration_ms, expected_version=version)


async def written(store: LeaseStore, holder: str | None, term: int) -> LeaseRecord:
    """Reads and writes, which must succeed."""
    record = await store.write(wanted(holder, term, await store.read()))
    assert record is not None
    return record


async def what_is_absent_is_read_as_none(place: Place) -> None:
    assert await place.store().read() is None


async def the_first_write_expects_no_version_and_is_the_only_one_that_does(place: Place) -> None:
    one, other = place.store(), place.store()
    assert await other.write(dataclasses.replace(wanted("b", 1, None), expected_version="1")) is None
    first = await one.write(wanted("a", 1, None))
    assert first is not None
    assert await one.write(wanted("a", 2, None)) is None
    assert await other.write(wanted("b", 2, None)) is None
    assert await other.read() == first


async def what_was_written_is_read_by_everybody(place: Place) -> None:
    one, other = place.store(), place.store()
    taken = await one.write(wanted("a", 3, await one.read()))
    assert taken is not None
    assert (taken.holder, taken.term, taken.duration_ms) == ("a", 3, DURATION_MS)
    assert await one.read() == await other.read() == taken
    shorter = await other.write(wanted("b", 4, taken, duration_ms=1000))
    assert shorter is not None
    assert (shorter.holder, shorter.term, shorter.duration_ms) == ("b", 4, 1000)
    assert await one.read() == shorter


async def a_lease_that_was_given_up_has_no_holder_and_keeps_its_term(place: Place) -> None:
    one = place.store()
    await written(one, "a", 7)
    released = await written(one, None, 7)
    assert (released.holder, released.term) == (None, 7)
    assert await place.store().read() == released


async def every_write_changes_the_version(place: Place) -> None:
    one = place.store()
    versions = [(await written(one, "a", 1)).version for _ in range(5)]
    assert len(set(versions)) == 5


async def a_write_that_expects_an_older_version_is_refused(place: Place) -> None:
    one, other = place.store(), place.store()
    first = await written(one, "a", 1)
    assert await other.read() == first
    second = await written(one, "a", 1)
    assert await other.write(wanted("b", 2, first)) is None
    assert await one.write(wanted("a", 2, first)) is None
    assert await other.read() == second


async def a_lower_term_is_refused(place: Place) -> None:
    one, other = place.store(), place.store()
    taken = await written(one, "a", 5)
    assert await other.read() == taken
    assert await other.write(wanted("b", 4, taken)) is None
    assert await one.write(wanted(None, 4, taken)) is None
    assert await one.read() == taken


async def of_twenty_who_write_at_once_one_wins(place: Place) -> None:
    stores = {f"v{number}": place.store() for number in range(20)}
    records = await asyncio.gather(*(store.read() for store in stores.values()))
    wishes = [wanted(name, 1, record) for name, record in zip(stores, records, strict=True)]
    outcomes = await asyncio.gather(
        *(store.write(wish) for store, wish in zip(stores.values(), wishes, strict=True)),
    )
    won = [outcome for outcome in outcomes if outcome is not None]
    assert len(won) == 1
    assert await place.store().read() == won[0]


async def who_watches_is_told_of_writes_and_of_nothing_else(place: Place) -> None:
    one, watching = place.store(), place.store()
    await written(one, "a", 1)
    async with asyncio.timeout(PATIENCE):
        await watching.changed()  # the record as it is
    for term in range(2, 4):
        told = await _nothing_to_tell(watching)
        record = await written(one, "a", term)
        async with asyncio.timeout(PATIENCE):
            await told
        assert await watching.read() == record
    told = await _nothing_to_tell(watching)
    told.cancel()
    with pytest.raises(asyncio.CancelledError):
        await told


async def _nothing_to_tell(store: LeaseStore) -> asyncio.Task[None]:
    """Returns a call of ``changed`` that waits, after others that may have told once more of what is known."""
    for _ in range(3):
        told = asyncio.create_task(store.changed())
        await asyncio.wait({told}, timeout=QUIET_SECONDS)
        if not told.done():
            return told
        await told
    raise AssertionError("it tells of changes although nobody writes")


async def a_place_that_is_gone_is_not_available(place: Place) -> None:
    one = place.store()
    record = await written(one, "a", 1)
    place.cut_off()
    for store in (one, place.store()):
        with pytest.raises(NotAvailable):
            await store.read()
    with pytest.raises(NotAvailable):
        await one.write(wanted("a", 1, record))


async def of_three_nodes_that_want_it_one_holds_it_and_then_another(place: Place) -> None:
    loops = [
        LeaseLoop(node_id=name, store=place.store(), timings=TIMINGS, wanted=lambda: True, term_floor=lambda: 0)
        for name in ("v0", "v1", "v2")
    ]

    def holder_all_know() -> LeaseLoop | None:
        holding = [loop for loop in loops if loop.is_held]
        assert len(holding) <= 1
        return holding[0] if holding and len({loop.view for loop in loops}) == 1 else None

    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        first = await eventually(holder_all_know, what="a holder")
        assert first.view[0] == 1
        await first.release()
        assert not first.is_held
        second = await eventually(holder_all_know, what="another holder")
        assert second is not first
        assert second.view[0] == 2
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


EVERYWHERE: tuple[Check, ...] = (
    what_was_written_is_read_by_everybody,
    a_lease_that_was_given_up_has_no_holder_and_keeps_its_term,
    every_write_changes_the_version,
    a_write_that_expects_an_older_version_is_refused,
    a_lower_term_is_refused,
    of_twenty_who_write_at_once_one_wins,
    who_watches_is_told_of_writes_and_of_nothing_else,
    of_three_nodes_that_want_it_one_holds_it_and_then_another,
)
WHERE_THE_FIRST_WRITE_MAKES_THE_RECORD: tuple[Check, ...] = (
    what_is_absent_is_read_as_none,
    the_first_write_expects_no_version_and_is_the_only_one_that_does,
)
"""Not on Kubernetes: there the operator makes the object, and a node has no right to."""
WHERE_THE_PLACE_CAN_BE_GONE: tuple[Check, ...] = (a_place_that_is_gone_is_not_available,)
"""Not in memory, which is there as long as the nodes are."""
