"""Bounded delivery to subscribers: order, fairness, drops, and silence after the end of a subscription."""

from collections.abc import Callable
from dataclasses import dataclass, field

from agentworld_node.network.counters import Counters
from agentworld_node.network.inbox import Inbox
from agentworld_node.network.port import Limits


@dataclass
class Turns:
    """An event loop that turns when told to."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def soon(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)

    def turn(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()

    def run(self) -> None:
        while self.waiting:
            self.turn()


def make(**limits: int) -> tuple[Inbox, Turns, Counters]:
    counters, turns = Counters(), Turns()
    inbox = Inbox(limits=Limits(**limits), counters=counters)
    inbox.attach(turns.soon)
    return inbox, turns, counters


def test_every_subscriber_of_the_topic_gets_messages_in_order() -> None:
    inbox, turns, counters = make()
    first: list[bytes] = []
    second: list[bytes] = []
    inbox.subscribe("t", lambda _author, payload: first.append(payload))
    inbox.subscribe("t", lambda _author, payload: second.append(payload))
    for number in range(200):
        inbox.offer("t", "a", bytes([number]))
    inbox.offer("other", "a", b"x")
    turns.run()
    assert first == second == [bytes([number]) for number in range(200)]
    assert counters.snapshot()["received"] == 200
    assert counters.snapshot()["delivered"] == 400


def test_full_queue_drops_its_oldest_and_counts() -> None:
    inbox, turns, counters = make(queue_messages=3)
    got: list[bytes] = []
    inbox.subscribe("t", lambda _author, payload: got.append(payload))
    for number in range(5):
        inbox.offer("t", "a", bytes([number]))
    turns.run()
    assert got == [b"\2", b"\3", b"\4"]
    assert counters.snapshot()["dropped_inbound"] == 2


def test_queue_is_bounded_in_bytes_too() -> None:
    inbox, turns, counters = make(queue_bytes=100)
    got: list[int] = []
    inbox.subscribe("t", lambda _author, payload: got.append(len(payload)))
    for size in (60, 50, 40, 101):
        inbox.offer("t", "a", bytes(size))
    inbox.offer("t", "a", bytes(7))
    turns.run()
    assert got == [7]
    assert counters.snapshot()["dropped_inbound"] == 4


def test_flood_on_one_topic_costs_another_nothing() -> None:
    inbox, turns, _ = make(queue_messages=1000)
    order: list[str] = []
    inbox.subscribe("flood", lambda _author, _payload: order.append("flood"))
    inbox.subscribe("vote", lambda _author, _payload: order.append("vote"))
    for _ in range(1000):
        inbox.offer("flood", "a", b"")
    inbox.offer("vote", "a", b"")
    turns.turn()
    assert order.index("vote") <= 1
    turns.run()
    assert order.count("flood") == 1000


def test_unsubscribed_handler_is_silent_even_for_messages_already_queued() -> None:
    inbox, turns, _ = make()
    got: list[bytes] = []
    unsubscribe = inbox.subscribe("t", lambda _author, payload: got.append(payload))
    inbox.offer("t", "a", b"before")
    unsubscribe()
    inbox.offer("t", "a", b"after")
    turns.run()
    assert got == []
    assert inbox.topics() == frozenset()
    unsubscribe()


def test_handler_may_end_its_subscription_in_the_middle_of_a_batch() -> None:
    inbox, turns, _ = make()
    got: list[bytes] = []

    def once(_author: str, payload: bytes) -> None:
        got.append(payload)
        unsubscribe()

    unsubscribe = inbox.subscribe("t", once)
    inbox.offer("t", "a", b"1")
    inbox.offer("t", "a", b"2")
    turns.run()
    assert got == [b"1"]


def test_failing_handler_is_counted_and_the_others_are_served() -> None:
    inbox, turns, counters = make()
    got: list[bytes] = []

    def fail(_author: str, _payload: bytes) -> None:
        raise ValueError("no")

    inbox.subscribe("t", fail)
    inbox.subscribe("t", lambda _author, payload: got.append(payload))
    inbox.offer("t", "a", b"1")
    turns.run()
    assert got == [b"1"]
    assert counters.snapshot()["handler_errors"] == 1


def test_detached_inbox_takes_nothing_and_forgets_what_waits() -> None:
    inbox, turns, _ = make()
    got: list[bytes] = []
    inbox.subscribe("t", lambda _author, payload: got.append(payload))
    inbox.offer("t", "a", b"1")
    inbox.detach()
    inbox.offer("t", "a", b"2")
    turns.run()
    assert got == []
    inbox.attach(turns.soon)
    inbox.offer("t", "a", b"3")
    turns.run()
    assert got == [b"3"]
