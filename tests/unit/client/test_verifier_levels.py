"""Verifying with and without replay, from a height to a height; a wrong result is traced to the first action."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentworld_client.errors import VerificationFailed
from agentworld_client.verifier import VerificationReport, Verifier
from agentworld_core.errors import InvalidField
from agentworld_core.ledger.block import HeaderInput, execute
from agentworld_core.messages import Receipt, WorldEvent
from tests.unit.client.chain_source import ChainSource, a_chain, forged
from tests.unit.core.ledger.chains import Chain, header, make_batch, with_fields
from tests.unit.core.world.agents import action

HEIGHT = 8


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain()


async def verify(source: ChainSource, *, replay: bool = False, **options: Any) -> VerificationReport:
    return await Verifier(source.world, replay=replay).verify(source, **options)


@pytest.mark.box("S7.3", "levels")
@pytest.mark.parametrize("replay", [False, True])
async def test_both_levels_lead_to_the_same_head(chain: Chain, replay: bool) -> None:
    report = await verify(ChainSource(chain), replay=replay)
    assert (report.height, report.from_height, report.replayed) == (HEIGHT, 1, replay)
    assert (report.state_root, report.block_hash) == (chain.state.state_root, chain.state.block_hash)
    assert report.epoch == 2


@pytest.mark.box("S7.3", "part")
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize(("start", "first"), [(1, 1), (3, 1), (4, 4), (6, 4), (7, 7), (8, 7)])
async def test_what_is_before_the_first_height_is_left_to_the_last_snapshot(
    chain: Chain, replay: bool, start: int, first: int
) -> None:
    source = ChainSource(chain)
    report = await verify(source, replay=replay, start=start)
    assert (report.from_height, report.height, report.state_root) == (first, HEIGHT, chain.state.state_root)
    assert report.fetched_blocks == HEIGHT - first + 1


async def test_it_begins_at_the_genesis_when_the_snapshot_is_gone(chain: Chain) -> None:
    source = ChainSource(chain)
    del source.blobs[chain.bundles[5].block.snapshot_ref or ""]
    assert (await verify(source, start=8)).from_height == 1


@pytest.mark.box("S7.3", "garbage")
async def test_a_wrong_snapshot_is_told(chain: Chain) -> None:
    source = ChainSource(chain)
    source.blobs[chain.bundles[5].block.snapshot_ref or ""] = b"garbage"
    with pytest.raises(VerificationFailed, match="snapshot is wrong") as caught:
        await verify(source, start=8)
    assert caught.value.height == 6


async def test_heights_that_make_no_sense_are_refused(chain: Chain) -> None:
    with pytest.raises(InvalidField, match="must not be above 4"):
        await verify(ChainSource(chain), start=5, up_to=4)


@pytest.mark.box("S7.3", "checked")
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("block", "prev_block_hash"), ("block", "state_root"), ("batch", "batch_id"), ("batch", "signature"),
        ("certificate", "block_hash"), ("certificate", "votes"),
    ],
)  # fmt: skip
async def test_the_height_object_and_field_are_named(chain: Chain, replay: bool, part: str, field: str) -> None:
    source = ChainSource(chain)
    good = source.bundles[3]
    other = {"prev_block_hash": "1" * 64, "state_root": "1" * 64, "batch_id": "1" * 64, "block_hash": "1" * 64}
    value = other.get(field, bytes(64) if field == "signature" else ())
    source.bundles[3] = with_fields(good, part, **{field: value})
    with pytest.raises(VerificationFailed) as caught:
        await verify(source, replay=replay)
    assert caught.value.height == 4
    place = caught.value.place or ""
    assert place.startswith(("block.", "batch", "certificate.")), place
    assert caught.value.as_dict()["place"] == place


class TestWrongResults:
    """What only replay finds, since a whole quorum has signed it."""

    def two_moves(self) -> list[Any]:
        return [action("ada", "agent.move", {"to": [9, 9]}, 5), action("bob", "agent.move", {"to": [8, 8]}, 4)]

    def right(self, chain: Chain) -> tuple[tuple[WorldEvent, ...], tuple[Receipt, ...]]:
        execution = execute(chain.state, make_batch(chain.state, self.two_moves()), header(chain.state))
        assert HeaderInput.of(execution.block) == header(chain.state)
        return execution.events, execution.receipts

    async def failure(self, chain: Chain, *, serve: bool = True, **wrong: Any) -> VerificationFailed:
        bundle, blobs = forged(chain, self.two_moves(), **wrong)
        source = ChainSource(chain)
        source.bundles.append(bundle)
        if serve:
            source.blobs.update(blobs)
        assert (await verify(source)).height == HEIGHT + 1, "without replay the quorum's word counts"
        with pytest.raises(VerificationFailed) as caught:
            await verify(source, replay=True)
        assert (caught.value.height, caught.value.cause_code) == (HEIGHT + 1, "execution_mismatch")
        return caught.value

    @pytest.mark.box("S7.3", "levels")
    async def test_the_first_event_that_differs_names_its_action(self, chain: Chain) -> None:
        events, _ = self.right(chain)
        wrong = dataclasses.replace(events[2], payload={**events[2].payload, "to": [0, 7]})  # type: ignore[dict-item]
        error = await self.failure(chain, event=wrong)
        assert error.difference is not None
        assert error.difference.action_id == self.two_moves()[1].action_id
        assert (error.difference.what, error.difference.field, error.difference.position) == ("event", "payload", 1)
        assert "first difference is of action" in str(error)
        assert error.as_dict()["difference"]["executed"].startswith("{")  # type: ignore[index]

    @pytest.mark.box("S7.3", "levels")
    async def test_the_first_receipt_that_differs_names_its_action(self, chain: Chain) -> None:
        _, receipts = self.right(chain)
        error = await self.failure(chain, receipt=dataclasses.replace(receipts[0], ok=False, code="mailbox_full"))
        assert error.difference is not None
        assert (error.difference.what, error.difference.field, error.difference.position) == ("receipt", "ok", 0)
        assert (error.difference.stated, error.difference.executed) == (False, True)
        assert error.place == "block.receipts_root" or error.place == "block.event_root"

    async def test_an_event_of_the_step_has_no_action(self, chain: Chain) -> None:
        events, _ = self.right(chain)
        error = await self.failure(chain, event=dataclasses.replace(events[0], payload={"time_ms": 1}))
        assert error.difference is not None
        assert (error.difference.action_id, error.difference.position) == ("", -1)
        assert "the step itself" in str(error)

    async def test_a_root_that_fits_no_journal_is_told_without_a_difference(self, chain: Chain) -> None:
        error = await self.failure(chain, state_root="1" * 64)
        assert (error.difference, error.place) == (None, "block.state_root")

    async def test_so_is_a_result_whose_journal_nobody_serves(self, chain: Chain) -> None:
        events, _ = self.right(chain)
        error = await self.failure(chain, serve=False, event=dataclasses.replace(events[0], payload={"time_ms": 1}))
        assert error.difference is None
