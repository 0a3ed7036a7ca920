"""What a world may never do, whatever was broken: lose or double an action, fork, or go back in terms."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

from agentworld_client.gateway import GatewayClient
from agentworld_core.ledger.block import block_hash_of


async def chain_at(url: str) -> tuple[dict[int, str], list[int], Counter[str]]:
    """Returns what a node serves: block hashes by height, the term of each block in order, and its actions."""
    hashes: dict[int, str] = {}
    terms: list[int] = []
    actions: Counter[str] = Counter()
    async with GatewayClient(url, patience=60) as client:
        height = 1
        while bundles := await client.blocks(height):
            for bundle in bundles:
                hashes[bundle.block.height] = block_hash_of(bundle.block)
                terms.append(bundle.block.term)
                actions.update(action.action_id for action in bundle.batch.actions)
            height += len(bundles)
    return hashes, terms, actions


def assert_one_history(urls: Iterable[str], promised: Sequence[str]) -> None:
    """Fails unless all nodes serve one chain, in which terms never fall and each promised action stands once."""
    known: dict[int, str] = {}
    for url in urls:
        hashes, terms, actions = asyncio.run(chain_at(url))
        for height, block_hash in hashes.items():
            assert known.setdefault(height, block_hash) == block_hash, f"two blocks at height {height}, one at {url}"
        assert terms == sorted(terms), f"a block of an older term was accepted: {terms}"
        missing = [action_id for action_id in promised if actions[action_id] == 0]
        assert not missing, f"{len(missing)} of {len(promised)} committed actions are not at {url}: {missing[:3]}"
        twice = [action_id for action_id, count in actions.items() if count > 1]
        assert not twice, f"in the ledger of {url} more than once: {twice[:3]}"
