"""The planned hand-over of the lease: whose wish counts, and that nobody comes between the two holders."""

from __future__ import annotations

import dataclasses
import random

import pytest

from agentworld_core.errors import (
    AgentWorldError,
    InvalidField,
    InvalidSignature,
    NotFound,
    StateMismatch,
    Unauthorized,
    WrongWorld,
)
from agentworld_core.ordering.lease import Acquire, HandOver, LeaseKeeper, LeaseWrite, Release, Renew, Wait
from agentworld_core.ordering.transfer import LONGEST_MS, Writer, WriterTransfer, check_term, check_transfer
from agentworld_core.signing import add_signature
from tests.unit.core.membership.worlds import WORLD, first_directory, signer
from tests.unit.core.ordering.test_lease import TIMINGS, Store, turn

FOUR = first_directory({"a": 1, "b": 1, "c": 1, "d": 1})
NOW = 1_000_000


def wish(*, by: str = "gov", **changes: object) -> WriterTransfer:
    plain = WriterTransfer(world_id=WORLD, target_id="b", term=3, expires_at_ms=NOW + 1000, signatures=())
    return add_signature(dataclasses.replace(plain, **changes), signer(by))  # type: ignore[arg-type]


class TestWish:
    def test_governance_may_name_a_member(self) -> None:
        check_transfer(wish(), FOUR, now_ms=NOW)
        check_term(wish(), Writer("a", 3))

    @pytest.mark.box("S27.2", "term-of-the-wish")
    @pytest.mark.parametrize(
        ("given", "kind", "field"),
        [
            (wish(world_id="mars"), WrongWorld, "world_id"),
            (wish(by="a"), Unauthorized, "signatures[0].key_id"),
            (dataclasses.replace(wish(), signatures=()), Unauthorized, "signatures"),
            (dataclasses.replace(wish(), term=4), InvalidSignature, "signatures[0].signature"),
            (wish(expires_at_ms=NOW), InvalidField, "expires_at_ms"),
            (wish(expires_at_ms=NOW + LONGEST_MS + 1), InvalidField, "expires_at_ms"),
            (wish(target_id="z"), NotFound, "target_id"),
        ],
    )
    def test_nobody_else_may_and_nobody_else_may_be_named(
        self, given: WriterTransfer, kind: type[AgentWorldError], field: str
    ) -> None:
        with pytest.raises(kind) as refused:
            check_transfer(given, FOUR, now_ms=NOW)
        assert refused.value.field == field

    def test_a_revoked_governance_key_does_not_count(self) -> None:
        with pytest.raises(Unauthorized):
            check_transfer(wish(), FOUR, revoked_key_ids=[signer("gov").key_id], now_ms=NOW)

    @pytest.mark.box("S27.2", "term-of-the-wish")
    @pytest.mark.parametrize("writer", [Writer("a", 2), Writer("a", 4), Writer(None, 3)])
    def test_it_is_spent_with_its_term(self, writer: Writer) -> None:
        with pytest.raises(StateMismatch):
            check_term(wish(), writer)


class TestKeeper:
    @pytest.mark.box("S5.3", "hand-over")
    def test_the_successor_has_the_lease_before_anybody_else_can_take_it(self) -> None:
        store = Store()
        a, b, c = (LeaseKeeper(name, TIMINGS) for name in "abc")
        turn(a, store, 100)
        turn(c, store, 101)
        a.observe(105, store.record)
        decision = a.decide(105, wanted=True, successor="b")
        assert decision == HandOver(LeaseWrite(holder="b", term=2, duration_ms=50, expected_version="v1"))
        assert not a.is_held(105), "it is over with the decision"
        stored = store.write(decision.write)
        assert stored is not None
        a.written(105, stored)
        assert a.view(106) == (2, "b")
        assert isinstance(turn(c, store, 106), Wait)
        b.observe(106, store.record)
        assert not b.is_held(106), "it begins with its own renewal"
        assert b.view(106) == (2, None)
        assert isinstance(turn(b, store, 106), Renew)
        assert b.view(106) == (2, "b")
        assert store.record is not None
        assert (store.record.holder, store.record.term) == ("b", 2)

    def test_a_successor_that_never_comes_loses_it_after_one_duration(self) -> None:
        store, a, c = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("c", TIMINGS)
        turn(a, store, 100)
        a.observe(105, store.record)
        decision = a.decide(105, wanted=True, successor="b")
        assert isinstance(decision, HandOver)
        stored = store.write(decision.write)
        assert stored is not None
        a.written(105, stored)
        assert isinstance(turn(c, store, 110), Wait)
        assert isinstance(turn(a, store, 154), Wait)
        assert isinstance(turn(a, store, 155), Acquire)
        assert store.record is not None
        assert store.record.term == 3

    def test_an_unfit_successor_gives_it_back_to_all(self) -> None:
        store, a, b, c = Store(), *(LeaseKeeper(name, TIMINGS) for name in "abc")
        turn(a, store, 100)
        a.observe(105, store.record)
        decision = a.decide(105, wanted=True, successor="b")
        assert isinstance(decision, HandOver)
        store.write(decision.write)
        assert isinstance(turn(b, store, 106, wanted=False), Release)
        assert isinstance(turn(c, store, 107), Acquire)

    def test_a_write_that_was_lost_leaves_the_holder_to_renew(self) -> None:
        store, a = Store(), LeaseKeeper("a", TIMINGS)
        turn(a, store, 100)
        a.observe(105, store.record)
        assert isinstance(a.decide(105, wanted=True, successor="b"), HandOver)
        assert isinstance(turn(a, store, 106), Renew)
        assert a.view(106) == (1, "a")

    @pytest.mark.box("S27.4", "expired")
    def test_who_does_not_hold_it_cannot_hand_it_over(self) -> None:
        store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
        turn(a, store, 100)
        b.observe(101, store.record)
        assert isinstance(b.decide(101, wanted=True, successor="c"), Wait)
        a.observe(131, store.record)
        assert isinstance(a.decide(131, wanted=True, successor="b"), Renew), "its deadline has passed"

    @pytest.mark.box("S5.3", "term-never-twice")
    @pytest.mark.parametrize("seed", range(40))
    def test_never_two_holders_and_terms_only_grow_whatever_is_handed_over(self, seed: int) -> None:
        """Nodes take turns at random, writes are lost or seen late, and holders hand over to anybody, or nobody."""
        rng = random.Random(seed)
        store = Store()
        keepers = {name: LeaseKeeper(name, TIMINGS) for name in "abc"}
        owners: dict[int, str] = {}
        now, last = 100, 0
        for _ in range(400):
            now += rng.randint(0, 12)
            keeper = keepers[rng.choice("abc")]
            successor = rng.choice(["a", "b", "c", "gone"]) if rng.random() < 0.2 else None
            keeper.observe(now, store.record)
            decision = keeper.decide(now, wanted=rng.random() < 0.9, successor=successor)
            if not isinstance(decision, Wait) and rng.random() < 0.9:
                started, now = now, now + rng.randint(0, 5)
                stored = store.write(decision.write)
                if stored is not None and rng.random() < 0.9:
                    keeper.written(started, stored)
            holders = [name for name, one in keepers.items() if one.is_held(now)]
            assert len(holders) <= 1, f"seed {seed}"
            for name in holders:
                term = keepers[name].view(now)[0]
                assert owners.setdefault(term, name) == name, f"seed {seed}: term {term} twice"
            assert store.record is None or store.record.term >= last, f"seed {seed}"
            last = store.record.term if store.record is not None else last
