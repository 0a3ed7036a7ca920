"""Verifying a world trusts nothing but keys: whatever is tampered with, the height and the reason are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_client.verifier import BundleStore, VerificationReport, Verifier
from agentworld_core.codec import encode
from agentworld_core.errors import InvalidField, NotAvailable
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.membership.builder import Changes
from agentworld_core.messages import BlockBundle, Blocks, Genesis, WorldHeadAnnounce
from tests.unit.client.scripted import ScriptedGateway, refusal, scripted
from tests.unit.core.ledger.chains import (
    PARAMETERS,
    Chain,
    make_certificate,
    make_genesis,
    make_head,
    resign,
    with_fields,
)
from tests.unit.core.membership.worlds import successor
from tests.unit.core.world.agents import action, register

HEIGHT = 5


@pytest.fixture(scope="module")
def chain() -> Chain:
    made = Chain()
    made.commit(register("ada"), register("bob"))
    made.commit(directory=successor(made.genesis.directory, Changes()))
    for nonce in range(1, HEIGHT - 1):
        made.commit(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))
    return made


class World:
    """What a node serves of a chain."""

    def __init__(self, chain: Chain):
        self.genesis: Genesis = chain.genesis
        self.bundles = list(chain.bundles)
        self.head: WorldHeadAnnounce | None = make_head(chain.bundles[-1])
        self.asked: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/genesis":
            return web.Response(body=encode(self.genesis))
        if request.path == "/v1/head":
            return (
                refusal(404, "not_found", retryable=False)
                if self.head is None
                else web.Response(body=encode(self.head))
            )
        start = int(request.query["from"])
        self.asked.append(start)
        return web.Response(body=encode(Blocks(tuple(self.bundles[start - 1 :][:2]))))


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def verify(
    world: World, store: Path, *, trusted: str | None = None, up_to: int | None = None
) -> VerificationReport:
    async with scripted(world.answer) as gateway, GatewayClient(gateway.url, patience=0) as client:
        assert isinstance(gateway, ScriptedGateway)
        verifier = Verifier(await client.genesis(), replay=True, store=BundleStore(store), trusted_genesis=trusted)
        return await verifier.verify(client, up_to=up_to)


@pytest.mark.box("S7.3", "same-hash")
async def test_a_right_world_is_replayed_to_its_state_root(chain: Chain, tmp_path: Path) -> None:
    world = World(chain)
    report = await verify(world, tmp_path, trusted=genesis_hash(chain.genesis))
    assert (report.height, report.state_root, report.block_hash) == (
        HEIGHT,
        chain.state.state_root,
        chain.state.block_hash,
    )
    assert (report.actions, report.epoch, report.fetched_blocks, report.stored_blocks) == (5, 2, HEIGHT, 0)
    assert report.signers == tuple(vote.validator_id for vote in chain.bundles[-1].certificate.votes)
    assert report.as_dict()["world_id"] == "aurora"


@pytest.mark.box("S7.3", "no-head")
async def test_a_world_without_blocks_is_right_too(chain: Chain, tmp_path: Path) -> None:
    world = World(chain)
    world.bundles, world.head = [], None
    assert (await verify(world, tmp_path)).height == 0


@pytest.mark.box("S7.3", "store")
async def test_it_goes_on_from_its_store_and_fetches_only_what_is_new(chain: Chain, tmp_path: Path) -> None:
    world = World(chain)
    first = await verify(world, tmp_path, up_to=3)
    assert (first.height, first.fetched_blocks) == (3, 3)
    world.asked.clear()
    second = await verify(world, tmp_path)
    assert (second.height, second.stored_blocks, second.fetched_blocks, world.asked) == (HEIGHT, 3, 2, [4])


@pytest.mark.box("S7.3", "store")
@pytest.mark.parametrize("damage", ["garbage", "bit", "other", "empty"])
async def test_a_damaged_store_is_mended_by_fetching(chain: Chain, tmp_path: Path, damage: str) -> None:
    world = World(chain)
    await verify(world, tmp_path)
    path = files(tmp_path)[2]
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-10] ^= 1
    written = {"garbage": b"garbage", "bit": bytes(data), "other": encode(chain.bundles[0]), "empty": b""}[damage]
    path.write_bytes(written)
    report = await verify(world, tmp_path)
    assert report.height == HEIGHT
    assert report.fetched_blocks >= 1
    assert path.read_bytes() == encode(chain.bundles[2])


async def test_the_store_of_another_world_does_no_harm(chain: Chain, tmp_path: Path) -> None:
    other = Chain(make_genesis(parameters=dataclasses.replace(PARAMETERS, block_interval_ms=7)))
    other.commit(register("eve"))
    store = BundleStore(tmp_path)
    store.put(other.bundles[0])
    assert (await verify(World(chain), tmp_path)).state_root == chain.state.state_root


def tampered(chain: Chain, how: str) -> Sequence[BlockBundle]:
    """The chain's blocks, of which the third was tampered with."""
    bundles = list(chain.bundles)
    good = bundles[2]
    moved = action("ada", "agent.move", {"to": [99, 99]}, 1)
    wrong = {
        "block": lambda: with_fields(good, "block", state_root="a" * 64),
        "signed block": lambda: dataclasses.replace(
            good, block=resign(dataclasses.replace(good.block, state_root="a" * 64), "a")
        ),
        "certified block": lambda: certified(resign(dataclasses.replace(good.block, state_root="a" * 64), "a"), good),
        "batch": lambda: with_fields(good, "batch", actions=(moved,)),
        "action": lambda: with_fields(
            good, "batch", actions=(dataclasses.replace(good.batch.actions[0], signature=bytes(64)),)
        ),
        "certificate": lambda: with_fields(good, "certificate", votes=good.certificate.votes[:2]),
        "vote": lambda: with_fields(
            good,
            "certificate",
            votes=(dataclasses.replace(good.certificate.votes[0], signature=bytes(64)), *good.certificate.votes[1:]),
        ),
        "other height": lambda: bundles[3],
        "other parent": lambda: certified(resign(dataclasses.replace(good.block, prev_block_hash="b" * 64), "a"), good),
        "directory": lambda: certified(resign(dataclasses.replace(good.block, directory_epoch=2), "a"), good),
    }[how]()
    bundles[2] = wrong
    return bundles


def certified(block: object, good: BlockBundle) -> BlockBundle:
    changed = dataclasses.replace(good, block=block)  # type: ignore[arg-type]
    return dataclasses.replace(changed, certificate=make_certificate(changed.block))


@pytest.mark.box("S7.3", "checked")
@pytest.mark.box("S3.3", "parent")
@pytest.mark.box("S25.3", "checked-offline")
@pytest.mark.parametrize(
    "how",
    [
        "block",
        "signed block",
        "certified block",
        "batch",
        "action",
        "certificate",
        "vote",
        "other height",
        "other parent",
        "directory",
    ],
)
async def test_whatever_is_tampered_with_the_height_is_named(chain: Chain, tmp_path: Path, how: str) -> None:
    world = World(chain)
    world.bundles = list(tampered(chain, how))
    with pytest.raises(VerificationFailed) as caught:
        await verify(world, tmp_path)
    assert caught.value.height == 3
    assert caught.value.cause_code
    assert caught.value.as_dict()["height"] == 3
    assert len(files(tmp_path)) == 2, "what is wrong is not kept"


@pytest.mark.box("S3.3", "head")
async def test_a_head_that_is_not_the_replayed_one_is_told(chain: Chain, tmp_path: Path) -> None:
    world = World(chain)
    for field in ("state_root", "block_hash"):
        world.head = dataclasses.replace(make_head(chain.bundles[-1]), **{field: "c" * 64})  # type: ignore[arg-type]
        with pytest.raises(VerificationFailed, match="is not the replayed one") as caught:
            await verify(world, tmp_path)
        assert caught.value.height == HEIGHT


async def test_a_node_that_does_not_serve_what_it_announces_is_told(chain: Chain, tmp_path: Path) -> None:
    world = World(chain)
    world.bundles = world.bundles[:3]
    with pytest.raises(VerificationFailed, match="is not served") as caught:
        await verify(world, tmp_path)
    assert caught.value.height == 4
    world.head = dataclasses.replace(make_head(chain.bundles[-1]), height=2**60)
    with pytest.raises(VerificationFailed):
        await verify(world, tmp_path)


@pytest.mark.box("S7.3", "no-head")
async def test_a_height_that_is_not_there_yet_is_no_failure_of_the_world(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="newest height is 5"):
        await verify(World(chain), tmp_path, up_to=6)


@pytest.mark.box("S7.3", "trust")
async def test_another_genesis_than_the_trusted_one_is_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="trusted") as caught:
        await verify(World(chain), tmp_path, trusted="d" * 64)
    assert caught.value.height == 0
    world = World(chain)
    world.genesis = dataclasses.replace(chain.genesis, created_at_ms=7)
    with pytest.raises(VerificationFailed, match="genesis is wrong"):
        await verify(world, tmp_path)


async def test_a_store_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(InvalidField, match="store"):
        BundleStore(path)
