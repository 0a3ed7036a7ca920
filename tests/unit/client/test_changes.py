"""What changed between two heights follows from verified journals, in both directions, with the events that did it."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_client.changes import Changes, changes_between
from agentworld_client.errors import VerificationFailed
from agentworld_core.errors import NotAvailable
from agentworld_core.world.tree import Tree
from tests.unit.client.chain_source import ChainSource, a_chain
from tests.unit.core.ledger.chains import Chain, make_certificate, resign, with_fields

HEIGHT = 8


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain()


async def changes(chain: Chain, start: int, end: int) -> Changes:
    return await changes_between(ChainSource(chain), chain.genesis, start, end)


def trees(chain: Chain) -> list[Tree]:
    return [chain.executions[0].chain.tree, *(execution.tree for execution in chain.executions)]


def entries(tree: Tree) -> dict[str, bytes]:
    return {key.decode(): value for key, value in tree.items()}


@pytest.mark.parametrize("start", range(HEIGHT + 1))
async def test_it_is_the_difference_of_the_two_states_whatever_they_are(chain: Chain, start: int) -> None:
    states = trees(chain)
    for end in range(HEIGHT + 1):
        found = await changes(chain, start, end)
        one, other = entries(states[start]), entries(states[end])
        assert (found.from_root, found.to_root) == (states[start].root, states[end].root)
        kinds = {item.key: item.change for item in found.keys}
        expected = {
            key: "added" if key not in one else "removed" if key not in other else "changed"
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        }
        assert kinds == expected, (start, end)


async def test_values_are_decoded_and_causes_named(chain: Chain) -> None:
    found = {item.key: item for item in (await changes(chain, 3, 8)).keys}
    lamp = found["object/lamp"]
    assert (lamp.group, lamp.change, lamp.events, lamp.before) == ("object", "added", 2, None)
    assert lamp.after == {"owner": "ada", "version": 2, "data": {"lit": True}}
    assert (lamp.last.height, lamp.last.kind) == (6, "object.updated")
    assert lamp.last.action_id == chain.bundles[5].batch.actions[0].action_id
    bob = found["agent/bob"]
    assert (bob.before["position"], bob.after["position"], bob.last.height) == ([0, 0], [5, 5], 8)
    assert not any(key.startswith("mail/") for key in found), "a letter that came and went is no difference"
    back = {item.key: item for item in (await changes(chain, 8, 3)).keys}
    assert (back["object/lamp"].change, back["object/lamp"].before) == ("removed", lamp.after)
    assert back["agent/bob"].after["position"] == [0, 0]
    document = (await changes(chain, 3, 8)).as_dict()
    assert document["keys"][0]["group"] == "agent"


async def test_nothing_is_taken_on_trust(chain: Chain) -> None:
    source = ChainSource(chain)
    source.bundles[4] = with_fields(source.bundles[4], "certificate", votes=())
    with pytest.raises(VerificationFailed) as caught:
        await changes_between(source, chain.genesis, 4, 6)
    assert caught.value.height == 5


@pytest.mark.parametrize("lie", ["another journal", "no journal", "root"])
async def test_a_journal_that_is_not_the_one_of_the_block_is_refused(chain: Chain, lie: str) -> None:
    source = ChainSource(chain)
    block = source.bundles[4].block
    if lie == "another journal":
        wrong = dataclasses.replace(block, event_root="1" * 64)
    elif lie == "no journal":
        wrong = dataclasses.replace(block, segments=())
    else:
        wrong = dataclasses.replace(block, state_root="1" * 64)
    signed = resign(wrong, "a")
    source.bundles[4] = dataclasses.replace(source.bundles[4], block=signed, certificate=make_certificate(signed))
    with pytest.raises(VerificationFailed) as caught:
        await changes_between(source, chain.genesis, 4, 6)
    assert caught.value.height == 5


async def test_a_height_that_is_not_there_yet_is_told(chain: Chain) -> None:
    with pytest.raises(NotAvailable, match="newest height is 8"):
        await changes(chain, 2, 9)
