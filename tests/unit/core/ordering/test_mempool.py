from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.codec import encode
from agentworld_core.errors import ActorLimit, Busy, InvalidField, NonceUsed, TooLarge
from agentworld_core.ordering.batch import BatchLimits
from agentworld_core.ordering.mempool import RETRY_AFTER_MS, Mempool, MempoolLimits
from agentworld_core.topology.node_config import NodeConfig
from tests.unit.core.ordering.actions import action

SIZE = len(encode(action("a", 1)))


def pool(*, max_actions: int = 100, max_per_actor: int = 100, max_bytes: int = 10**6, batch: int = 10**6) -> Mempool:
    limits = MempoolLimits(max_actions=max_actions, max_per_actor=max_per_actor, max_bytes=max_bytes)
    return Mempool(limits, BatchLimits(max_actions=512, max_bytes=batch))


def places(mempool: Mempool, **limits: int) -> list[tuple[str, int]]:
    taken = mempool.take_batch(BatchLimits(**limits) if limits else None)
    return [(item.actor_id, item.nonce) for item in taken]


@pytest.mark.box("S5.1", "duplicate")
def test_the_same_action_again_changes_nothing() -> None:
    mempool = pool()
    assert mempool.add(action("a", 1))
    assert not mempool.add(action("a", 1))
    assert len(mempool) == 1
    assert action("a", 1).action_id in mempool
    assert mempool.get(action("a", 1).action_id) == action("a", 1)
    assert mempool.get("0" * 64) is None


def test_only_an_action_that_is_the_same_in_every_byte_is_taken_for_the_one_that_waits() -> None:
    mempool = pool()
    waiting = action("a", 1)
    mempool.add(waiting)
    assert mempool.waiting(dataclasses.replace(waiting)) is waiting
    # The id does not cover the signature.
    other = dataclasses.replace(waiting, signature=bytes(64))
    assert mempool.waiting(other) is other
    stranger = action("b", 1)
    assert mempool.waiting(stranger) is stranger


def test_what_no_waiting_makes_right_is_not_told_to_wait() -> None:
    mempool = pool(batch=512)
    mempool.add(action("a", 1))
    for refused, error in ((action("a", 1, padding=1), NonceUsed), (action("a", 2, padding=2048), TooLarge)):
        with pytest.raises(error) as caught:
            mempool.add(refused)
        assert caught.value.retry_after_ms == 0


@pytest.mark.box("S5.1", "replacement")
def test_another_action_under_a_waiting_nonce_is_refused() -> None:
    mempool = pool()
    mempool.add(action("a", 1))
    with pytest.raises(NonceUsed):
        mempool.add(action("a", 1, padding=1))


@pytest.mark.box("S5.1", "actor-limit", "room")
def test_one_actor_has_its_limit_and_others_do_not_feel_it() -> None:
    mempool = pool(max_per_actor=1)
    mempool.add(action("a", 1))
    with pytest.raises(ActorLimit) as caught:
        mempool.add(action("a", 2))
    assert caught.value.retry_after_ms == RETRY_AFTER_MS
    assert mempool.add(action("b", 1))


@pytest.mark.box("S5.1", "full", "room")
def test_a_full_mempool_refuses_the_new_and_keeps_the_old() -> None:
    mempool = pool(max_actions=2)
    mempool.add(action("a", 1))
    mempool.add(action("b", 1))
    with pytest.raises(Busy) as caught:
        mempool.add(action("c", 1))
    assert (caught.value.retryable, caught.value.retry_after_ms) == (True, RETRY_AFTER_MS)
    assert places(mempool) == [("a", 1), ("b", 1)]


@pytest.mark.box("S5.1", "bytes", "room")
def test_bytes_are_bounded_too_and_come_free_again() -> None:
    mempool = pool(max_bytes=SIZE * 2)
    mempool.add(action("a", 1))
    mempool.add(action("b", 1))
    with pytest.raises(Busy) as caught:
        mempool.add(action("c", 1))
    assert caught.value.retry_after_ms == RETRY_AFTER_MS
    mempool.remove([action("a", 1).action_id])
    assert mempool.add(action("c", 1))
    assert mempool.bytes <= SIZE * 2


@pytest.mark.box("S5.2", "too-large-alone")
def test_what_no_batch_can_hold_is_refused_at_the_door() -> None:
    mempool = pool(batch=512)
    with pytest.raises(TooLarge):
        mempool.add(action("a", 1, padding=2048))
    mempool.add(action("a", 2))
    assert places(mempool) == [("a", 2)]


@pytest.mark.box("S5.2", "order", "max-actions")
def test_batches_follow_arrival_between_actors_and_nonces_within_one() -> None:
    mempool = pool()
    for actor, nonce in (("a", 5), ("b", 1), ("a", 2), ("c", 1), ("a", 3)):
        mempool.add(action(actor, nonce))
    assert places(mempool) == [("a", 2), ("b", 1), ("a", 3), ("c", 1), ("a", 5)]
    assert places(mempool, max_actions=2) == [("a", 2), ("b", 1)]


@pytest.mark.box("S5.2", "max-bytes")
def test_a_batch_ends_before_the_first_that_does_not_fit() -> None:
    mempool = pool()
    mempool.add(action("a", 1))
    mempool.add(action("b", 1, padding=900))
    mempool.add(action("c", 1))
    assert places(mempool, max_bytes=SIZE + 905) == [("a", 1)]
    assert places(mempool, max_bytes=SIZE * 3 + 950) == [("a", 1), ("b", 1), ("c", 1)]
    assert places(mempool, max_bytes=SIZE * 2) == [("a", 1), ("c", 1)]


@pytest.mark.box("S5.2", "kept-until-committed")
@pytest.mark.box("S5.1", "remove")
def test_taking_a_batch_removes_nothing_and_a_commit_does() -> None:
    mempool = pool()
    mempool.add(action("a", 1))
    mempool.add(action("b", 1))
    assert places(mempool) == places(mempool)
    assert mempool.remove([action("a", 1).action_id, "f" * 64]) == 1
    assert places(mempool) == [("b", 1)]
    assert mempool.add(action("a", 1))


@pytest.mark.box("S5.1", "stale")
def test_what_can_never_be_committed_is_swept_out() -> None:
    mempool = pool()
    for nonce in (1, 2, 3):
        mempool.add(action("a", nonce))
    mempool.add(action("b", 1))
    assert [item.nonce for item in mempool.remove_where(lambda item: item.nonce < 3, actor_ids=["a"])] == [1, 2]
    assert places(mempool) == [("a", 3), ("b", 1)]
    assert len(mempool.remove_where(lambda _: True)) == 2
    assert (len(mempool), mempool.bytes) == (0, 0)


@pytest.mark.box("S5.1", "defaults")
@pytest.mark.box("S5.2", "defaults")
def test_what_nobody_sets_is_as_the_specification_has_it() -> None:
    node = NodeConfig(world_id="w", node_id="n")
    limits = MempoolLimits()
    assert (limits.max_actions, limits.max_per_actor) == (10_000, 256)
    assert (node.mempool_max_actions, node.mempool_max_per_actor) == (10_000, 256)
    assert (node.mempool_max_per_source, node.mempool_expiry_ms, node.verification_workers) == (5_000, 600_000, 0)
    assert BatchLimits() == BatchLimits(max_actions=512, max_bytes=512 * 1024)


@pytest.mark.box("S5.2", "empty")
def test_an_empty_mempool_gives_an_empty_batch() -> None:
    assert pool().take_batch() == ()


@pytest.mark.box("S5.1", "full")
def test_who_sends_more_pushes_nobody_out() -> None:
    """W1: of a1, a2, a3 with room for two, the specification keeps a2 and a3; whoever came first stays here."""
    mempool = pool(max_actions=2)
    mempool.add(action("honest", 1))
    mempool.add(action("spammer", 1))
    for nonce in range(2, 30):
        with pytest.raises(Busy):
            mempool.add(action("spammer", nonce))
    assert places(mempool) == [("honest", 1), ("spammer", 1)]


@pytest.mark.box("S5.1", "source-limit", "room")
def test_one_source_with_many_actors_has_its_share_and_others_have_room() -> None:
    mempool = Mempool(MempoolLimits(max_actions=100, max_per_source=2), BatchLimits())
    for actor in ("a", "b"):
        assert mempool.add(action(actor, 1), source="client x")
    with pytest.raises(Busy, match="same place") as caught:
        mempool.add(action("c", 1), source="client x")
    assert (caught.value.retryable, caught.value.retry_after_ms) == (True, RETRY_AFTER_MS)
    assert caught.value.remedy
    assert mempool.add(action("c", 1), source="client y")
    assert mempool.of_source("client x") == 2
    # What is committed makes room, and a source without actions is forgotten.
    mempool.remove([action("a", 1).action_id, action("c", 1).action_id])
    assert mempool.add(action("d", 1), source="client x")
    assert (mempool.of_source("client x"), mempool.of_source("client y")) == (2, 0)
    mempool.remove_where(lambda _: True)
    assert mempool._sources == {}


@pytest.mark.box("S5.1", "source-limit")
def test_an_action_counts_for_whoever_brought_it_first() -> None:
    mempool = Mempool(MempoolLimits(max_per_source=1), BatchLimits())
    mempool.add(action("a", 1), source="client x")
    assert not mempool.add(action("a", 1), source="peer y")
    assert mempool.add(action("b", 1), source="peer y")
    assert (mempool.of_source("client x"), mempool.of_source("peer y")) == (1, 1)


@pytest.mark.box("S5.1", "source-limit")
@pytest.mark.parametrize(("limit", "source"), [(0, "client x"), (1, "")])
def test_without_a_limit_or_a_source_only_the_other_limits_count(limit: int, source: str) -> None:
    mempool = Mempool(MempoolLimits(max_actions=3, max_per_source=limit), BatchLimits())
    assert all(mempool.add(action(actor, 1), source=source) for actor in ("a", "b", "c"))
    with pytest.raises(Busy, match="most there may be"):
        mempool.add(action("d", 1), source=source)


@pytest.mark.box("S5.1", "expiry")
def test_what_has_waited_longer_than_it_may_is_dropped_and_nothing_else() -> None:
    mempool = Mempool(MempoolLimits(expiry_ms=100, max_per_source=2), BatchLimits())
    mempool.add(action("a", 1), source="client x", now_ms=1_000)
    mempool.add(action("b", 1), source="client x", now_ms=1_050)
    # Taken up after a restart: it came later, and has waited for longer.
    mempool.add(action("c", 1), now_ms=900)
    assert mempool.expire(1_000) == []
    assert mempool.expire(1_001) == [action("c", 1)]
    assert mempool.expire(1_100) == []
    assert mempool.expire(1_101) == [action("a", 1)]
    assert places(mempool) == [("b", 1)]
    assert (mempool.of_source("client x"), mempool.bytes) == (1, SIZE)
    # Submitted again it waits anew.
    assert mempool.add(action("a", 1), source="client x", now_ms=1_101)
    assert mempool.expire(1_151) == [action("b", 1)]
    assert [item.action for item in mempool.waiting_now()] == [action("a", 1)]


@pytest.mark.box("S5.1", "expiry")
def test_with_an_expiry_of_zero_nothing_expires() -> None:
    mempool = Mempool(MempoolLimits(expiry_ms=0), BatchLimits())
    mempool.add(action("a", 1))
    assert mempool.expire(10**12) == []
    assert len(mempool) == 1


@pytest.mark.box("S5.1", "source-limit")
def test_a_node_gives_a_source_half_of_the_places_that_it_is_told_to_have() -> None:
    facts = {"world_id": "w", "node_id": "n", "data_folder": "/d", "genesis_file": "/g", "identity_file": "/i"}
    facts |= {"key_folder": "/k"}

    def share(**said: int) -> int:
        return NodeConfig.from_dict(facts | said).mempool_max_per_source

    assert (share(), share(mempool_max_actions=50), share(mempool_max_actions=1)) == (5_000, 25, 1)
    assert share(mempool_max_actions=50, mempool_max_per_source=0) == 0
    assert share(mempool_max_actions=50, mempool_max_per_source=40) == 40
    for wrong in ({"mempool_max_per_source": -1}, {"mempool_expiry_ms": -1}, {"verification_workers": 65}):
        with pytest.raises(InvalidField) as caught:
            NodeConfig.from_dict(facts | wrong)
        assert caught.value.field == next(iter(wrong))
