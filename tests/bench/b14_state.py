"""B14: the state root after a block against hashing the whole state, and replay of a chain against its live execution.

A block changes 100 keys. The peer hashes every key and value with SHA-256, which is what a root costs without a tree.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from agentworld_core.codec import decode, encode
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.validate import replay_bundle
from agentworld_core.messages import ActionEnvelope, BlockBundle
from agentworld_core.world.actions import check_envelope
from agentworld_core.world.tree import Tree
from tests.bench.divergence import divergence_case
from tests.bench.harness import Case, Setting, cpu
from tests.bench.material import VALIDATOR, moves, next_block, populated
from tests.unit.node.material import WORLD, make_genesis

SEED = 20_250_104
DIRTY = 100


def cases(setting: Setting) -> Iterator[Case]:
    """Yields the incremental root at growing sizes, its growth, and replay against live execution."""
    sizes = (300, 1_000) if setting.quick else (1_000, 10_000, 100_000, 1_000_000)
    states = {size: _State(size) for size in sizes}
    largest = sizes[-1]
    for size, state in states.items():
        yield Case(
            id="B14",
            case=f"root after {DIRTY} changes of {size:,} keys",
            peer="SHA-256 of the whole state",
            ours=state.update,
            theirs=state.hash_everything,
            goal=100.0 if size == 1_000_000 else None,
            check=state.wrong,
        )
    base = sizes[1] if len(sizes) > 2 else sizes[0]
    yield Case(
        id="B14",
        case=f"root after {DIRTY} changes of {largest:,} keys",
        peer=f"of {base:,} keys",
        ours=states[largest].update,
        theirs=states[base].update,
        goal=2.0,
        kind="cost",
    )
    states.clear()
    yield _replay(setting)
    yield divergence_case(setting)


class _State:
    """A tree of so many keys and what is done with it."""

    def __init__(self, size: int):
        self._chance = random.Random(SEED)
        self._keys = [b"object/" + self._chance.randbytes(8).hex().encode() for _ in range(size)]
        self._entries = {key: self._chance.randbytes(32) for key in self._keys}
        self._tree = Tree.of(self._entries)
        assert self._tree.root

    def _changes(self) -> dict[bytes, bytes | None]:
        return {key: self._chance.randbytes(32) for key in self._chance.sample(self._keys, DIRTY)}

    def update(self) -> float:
        """The cost of a new root; the changed tree becomes the one of the next round."""
        changes = self._changes()

        def work() -> None:
            self._tree = self._tree.update(changes)
            assert self._tree.root

        seconds = cpu(work, items=1)
        self._entries.update({key: value for key, value in changes.items() if value is not None})
        return seconds

    def hash_everything(self) -> float:
        def work() -> None:
            whole = hashlib.sha256()
            for key, value in self._entries.items():
                whole.update(key)
                whole.update(value)
            whole.digest()

        return cpu(work, items=1)

    def wrong(self) -> str | None:
        if Tree.of(self._entries).root != self._tree.root:
            return "the root differs from that of a tree built at once"
        return None


def _replay(setting: Setting) -> Case:
    """Replay, with every signature and certificate checked, against judging the actions and executing them live."""
    actions = moves(setting.size(512, 32))
    size = 64 if len(actions) > 64 else 16
    batches = [tuple(actions[start : start + size]) for start in range(0, len(actions), size)]
    first = populated(chain_from_genesis(make_genesis((VALIDATOR,))), 1_000)
    encoded = [encode(bundle) for bundle in _live(first, batches)[1]]

    def again() -> list[BlockBundle]:
        """The blocks as an observer gets them: decoded, nothing remembered from making them."""
        return [decode(BlockBundle, data) for data in encoded]

    def replay() -> float:
        bundles = again()
        return cpu(lambda: _replayed(first, bundles), items=len(actions))

    def live() -> float:
        fresh = [bundle.batch.actions for bundle in again()]
        return cpu(lambda: _live(first, fresh), items=len(actions))

    def wrong() -> str | None:
        same = _replayed(first, again()).state_root == _live(first, batches)[0].state_root
        return None if same else "replay comes to another state"

    return Case(
        id="B14",
        case=f"replay of {len(batches)} blocks of {size} actions",
        peer="live: judging the actions and making the blocks",
        ours=replay,
        theirs=live,
        goal=0.8,
        check=wrong,
    )


def _live(chain: ChainState, batches: list[tuple[ActionEnvelope, ...]]) -> tuple[ChainState, list[BlockBundle]]:
    bundles = []
    for actions in batches:
        for action in actions:
            check_envelope(action, WORLD)
        bundle, execution = next_block(chain, actions)
        chain = execution.chain_after(bundle.block)
        bundles.append(bundle)
    return chain, bundles


def _replayed(chain: ChainState, bundles: list[BlockBundle]) -> ChainState:
    for bundle in bundles:
        chain = replay_bundle(chain, bundle).chain_after(bundle.block)
    return chain
