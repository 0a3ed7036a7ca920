"""What is bounded stays so whatever is sent: strikes, queues of consensus messages, waiting clients."""

from __future__ import annotations

import asyncio

import pytest

from agentworld_core.consensus.events import WorkPending
from agentworld_node.metrics import Metrics
from agentworld_node.roles import intake as intake_module
from agentworld_node.roles import strikes as strikes_module
from agentworld_node.roles.intake import ConsensusMessage, Intake
from agentworld_node.roles.strikes import Strikes
from agentworld_node.roles.waiters import Waiters


def message(peer: str, number: int, *, kind: str = "vote", size: int = 1) -> ConsensusMessage:
    return ConsensusMessage(kind, peer, bytes([number % 256]) * size)


class TestStrikes:
    @pytest.mark.box("S3.3", "liar")
    def test_each_failure_leaves_a_peer_alone_for_longer_up_to_a_limit(self) -> None:
        strikes = Strikes(first=10, longest=35)
        now = 0.0
        pauses = []
        for _ in range(4):
            strikes.add("p", now)
            end = next(second for second in range(1, 100) if not strikes.is_struck("p", now + second))
            pauses.append(end)
            now += end
        assert pauses == [10, 20, 35, 35]

    @pytest.mark.box("S3.3", "liar")
    def test_good_peers_come_first_and_those_left_alone_last(self) -> None:
        strikes = Strikes(first=10, longest=100)
        strikes.add("once", 0)
        strikes.add("twice", 0)
        strikes.add("twice", 0)
        order = sorted(["twice", "once", "good"], key=lambda peer: strikes.weight(peer, 15))
        assert order == ["good", "once", "twice"]
        assert not strikes.is_struck("once", 15)

    def test_what_is_long_ago_is_forgiven(self) -> None:
        strikes = Strikes(first=10, longest=1000)
        for _ in range(5):
            strikes.add("p", 0)
        later = 10_000.0
        strikes.add("p", later)
        assert strikes.is_struck("p", later + 9)
        assert not strikes.is_struck("p", later + 11)

    def test_memory_does_not_grow_with_the_number_of_strangers(self) -> None:
        strikes = Strikes(first=10, longest=100)
        for number in range(5 * strikes_module.PEERS_KEPT):
            strikes.add(f"stranger-{number}", number / 1000)
        assert len(strikes) == strikes_module.PEERS_KEPT


class TestIntake:
    def intake(self, *members: str) -> tuple[Intake, Metrics]:
        metrics = Metrics()
        return Intake(admits=lambda peer: peer in members, metrics=metrics), metrics

    async def test_own_events_come_first_and_members_take_turns(self) -> None:
        intake, _ = self.intake("a", "b")
        for number in range(3):
            intake.put_message(message("a", number))
        intake.put_message(message("b", 9))
        intake.put_event(WorkPending(True))
        taken = [await intake.take() for _ in range(5)]
        assert taken == [WorkPending(True), message("a", 0), message("b", 9), message("a", 1), message("a", 2)]
        assert len(intake) == 0

    async def test_strangers_are_not_heard(self) -> None:
        intake, metrics = self.intake("a")
        intake.put_message(message("eve", 1))
        assert len(intake) == 0
        assert 'agentworld_messages_refused_total{code="unauthorized",topic="vote"} 1' in metrics.page()

    async def test_a_flood_of_one_costs_only_itself(self) -> None:
        intake, metrics = self.intake("flood", "quiet")
        intake.put_message(message("quiet", 1))
        for number in range(10 * intake_module.MESSAGES_PER_PEER):
            intake.put_message(message("flood", number))
        assert len(intake) == intake_module.MESSAGES_PER_PEER + 1
        assert await intake.take() == message("quiet", 1)
        dropped = 9 * intake_module.MESSAGES_PER_PEER
        assert metrics.total("agentworld_messages_refused_total") == dropped

    async def test_large_messages_are_bounded_in_bytes_and_the_newest_stay(self) -> None:
        intake, _ = self.intake("a")
        size = intake_module.BYTES_PER_PEER // 4
        for number in range(20):
            intake.put_message(message("a", number, kind="proposal", size=size))
        assert len(intake) == 4
        assert await intake.take() == message("a", 16, kind="proposal", size=size)

    async def test_taking_waits_for_the_next(self) -> None:
        intake, _ = self.intake("a")
        taking = asyncio.create_task(intake.take())
        await asyncio.sleep(0)
        intake.put_message(message("a", 7))
        assert await taking == message("a", 7)


class TestWaiters:
    async def test_they_wake_when_all_are_settled(self) -> None:
        waiters = Waiters(10)
        waiting = asyncio.create_task(waiters.wait(["x", "y"], settled=lambda _: False, seconds=60))
        await asyncio.sleep(0)
        waiters.release(["x"])
        await asyncio.sleep(0)
        assert not waiting.done()
        waiters.release(["y", "unknown"])
        await waiting
        assert (len(waiters), waiters._groups) == (0, {})

    async def test_what_was_settled_before_is_not_waited_for(self) -> None:
        waiters = Waiters(10)
        await waiters.wait(["x"], settled=lambda action: action == "x", seconds=60)
        await waiters.wait([], settled=lambda _: False, seconds=60)
        assert len(waiters) == 0

    async def test_time_out_and_cancellation_leave_nothing(self) -> None:
        waiters = Waiters(10)
        await waiters.wait(["x", "x"], settled=lambda _: False, seconds=0.01)
        waiting = asyncio.create_task(waiters.wait(["x"], settled=lambda _: False, seconds=60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (len(waiters), waiters._groups) == (0, {})

    async def test_each_wakes_with_its_own_last_action(self) -> None:
        waiters = Waiters(10)
        both = asyncio.create_task(waiters.wait(["x", "y", "x"], settled=lambda _: False, seconds=60))
        one = asyncio.create_task(waiters.wait(["x"], settled=lambda _: False, seconds=60))
        await asyncio.sleep(0)
        waiters.release(["x"])
        await one
        assert not both.done()
        waiters.release(["y"])
        await both
        assert (len(waiters), waiters._groups) == (0, {})

    async def test_more_than_the_limit_are_answered_at_once(self) -> None:
        waiters = Waiters(2)
        waiting = asyncio.create_task(waiters.wait(["x", "y"], settled=lambda _: False, seconds=60))
        await asyncio.sleep(0)
        await waiters.wait(["z"], settled=lambda _: False, seconds=60)
        assert len(waiters) == 2
        waiters.release(["x", "y"])
        await waiting
