"""B6: admission to the mempool against Redis, and with signatures against bare verification.

Half of the actions are duplicates; 64 senders share them by Zipf's law with exponent 1.2. Redis does what admission
without signatures does, a guard by action id and an append, in pipelines of 256 that are encoded beforehand.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidSignature
from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.batch import BatchLimits
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_core.signing import signed_bytes, verify_bytes
from agentworld_core.world.actions import Actors, make_action, sign_action
from agentworld_core.world.tree import Tree
from agentworld_node.roles.verification import Judged, Verifier
from tests.bench.harness import Case, LeftOut, Setting, cpu, wall
from tests.bench.material import agent_signer, state_of
from tests.bench.redis_peer import Redis, RedisMissing
from tests.unit.node.material import WORLD

SEED = 20_250_103
SENDERS = 64
ZIPF = 1.2


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields admission without and with signatures, with two workers, and into a full mempool."""
    signed = _actions(setting.size(2_000, 40))
    encoded = [encode(action) for action in signed]
    known = state_of(0, base=Tree.empty(), actors=SENDERS)
    covered = [(action.public_key, action.signature, signed_bytes(action)) for action in signed]
    arrivals = _with_duplicates(signed)
    try:
        with tempfile.TemporaryDirectory() as folder, Redis(Path(folder), archives=Path("build/peers")) as redis:
            requests = redis.encode([(action.action_id.encode(), action.payload_cbor) for action in arrivals])
            yield Case(
                id="B6",
                case="admission without signatures",
                peer="Redis SET NX + XADD, pipelined",
                ours=lambda: wall(lambda: _admit(_pool(), arrivals), items=len(arrivals)),
                theirs=lambda: wall(lambda: redis.send(requests), items=len(arrivals)),
                goal=10.0,
                check=lambda: _wrong_order(arrivals),
            )
    except RedisMissing as missing:
        yield LeftOut(id="B6", case="admission without signatures", reason=str(missing))
    yield Case(
        id="B6",
        case="admission with signatures",
        peer="bare verify",
        ours=_on_arrival(encoded, lambda new: cpu(lambda: _judge_and_admit(known, new), items=len(new))),
        theirs=lambda: cpu(lambda: _verify(covered), items=len(signed)),
        goal=0.9,
        check=lambda: _wrong_signatures(known, signed),
    )
    yield Case(
        id="B6",
        case="judging in two threads",
        peer="in one",
        ours=_on_arrival(encoded, lambda new: wall(lambda: _judge(known, new, 2), items=len(new))),
        theirs=_on_arrival(encoded, lambda new: wall(lambda: _judge(known, new, 1), items=len(new))),
        goal=1.7,
    )
    yield from _growth(setting)


def _growth(setting: Setting) -> Iterator[Case]:
    """How much more an admission, and a batch, cost with many actions waiting than with few, against bare dicts.

    Larger structures miss the processor's caches more often, whatever is done with them; that part is not ours.
    """
    many, few = setting.size(50_000, 2_000), 1_000
    unsigned = [_unsigned(number) for number in range(many + 500)]
    probe = unsigned[many:]
    large, small, bare_large, bare_small = _pool(), _pool(), _Bare(), _Bare()
    for pool, bare, count in ((large, bare_large, many), (small, bare_small, few)):
        _admit(pool, unsigned[:count])
        bare.admit(unsigned[:count])

    def admission(pool: Mempool | _Bare) -> float:
        admit = pool.admit if isinstance(pool, _Bare) else lambda actions: _admit(pool, actions)
        seconds = []
        for _ in range(5):
            seconds.append(cpu(lambda: admit(probe), items=len(probe)))
            pool.remove(action.action_id for action in probe)
        return min(seconds)

    def batch(pool: Mempool | _Bare) -> float:
        return min(cpu(pool.take_batch, items=1) for _ in range(5))

    for name, cost in (("admission", admission), ("a batch of 512", batch)):
        yield _quotients(
            f"{name}: {many:,} actions waiting against {few:,}",
            cost,
            ours=(large, small),
            bare=(bare_large, bare_small),
        )


def _quotients(
    name: str,
    cost: Callable[[Mempool | _Bare], float],
    *,
    ours: tuple[Mempool, Mempool],
    bare: tuple[_Bare, _Bare],
) -> Case:
    return Case(
        id="B6",
        case=name,
        peer="the same with bare dicts",
        ours=lambda: cost(ours[0]) / cost(ours[1]),
        theirs=lambda: cost(bare[0]) / cost(bare[1]),
        goal=1.5,
        kind="cost",
        unit="times",
    )


class _Bare:
    """The dicts of a mempool without its rules."""

    def __init__(self) -> None:
        self._arrivals: dict[str, tuple[str, int]] = {}
        self._actors: dict[str, dict[int, ActionEnvelope]] = {}

    def admit(self, actions: Sequence[ActionEnvelope]) -> None:
        for action in actions:
            if action.action_id not in self._arrivals:
                self._arrivals[action.action_id] = (action.actor_id, action.nonce)
                self._actors.setdefault(action.actor_id, {})[action.nonce] = action

    def remove(self, action_ids: Iterable[str]) -> None:
        for action_id in action_ids:
            actor, nonce = self._arrivals.pop(action_id)
            del self._actors[actor][nonce]

    def take_batch(self) -> list[ActionEnvelope]:
        return [self._actors[actor][nonce] for actor, nonce in itertools.islice(self._arrivals.values(), 512)]


def _pool() -> Mempool:
    return Mempool(MempoolLimits(max_actions=10**6, max_per_actor=10**6, max_bytes=2**32), BatchLimits())


def _actions(count: int) -> list[ActionEnvelope]:
    chance = random.Random(SEED)
    weights = [1 / (rank + 1) ** ZIPF for rank in range(SENDERS)]
    signers = [agent_signer(f"agent-{number}") for number in range(SENDERS)]
    made = []
    for number, sender in enumerate(chance.choices(range(SENDERS), weights, k=count)):
        action = make_action(
            world_id=WORLD,
            actor_id=f"agent-{sender}",
            kind="agent.move",
            payload={"to": [number, number]},
            nonce=number + 1,
            timestamp_ms=1_700_000_000_000,
        )
        made.append(sign_action(action, signers[sender]))
    return made


def _unsigned(number: int) -> ActionEnvelope:
    """An action whose id and signature nobody looks at here."""
    return ActionEnvelope(
        world_id=WORLD,
        action_id=f"{number:064x}",
        actor_id=f"agent-{number % 1000}",
        action_kind="agent.move",
        payload_cbor=b"\xa1\x62to\x82\x01\x02",
        payload_hash="0" * 64,
        nonce=number,
        timestamp_ms=0,
        signature=bytes(64),
        public_key=bytes(32),
    )


def _with_duplicates(actions: Sequence[ActionEnvelope]) -> list[ActionEnvelope]:
    """Each action twice, in an order of chance."""
    twice = [action for action in actions for _ in range(2)]
    random.Random(SEED).shuffle(twice)
    return twice


def _admit(pool: Mempool, actions: Sequence[ActionEnvelope]) -> int:
    return sum([pool.add(action) for action in actions])


def _on_arrival(encoded: Sequence[bytes], measure: Callable[[Sequence[ActionEnvelope]], float]) -> Callable[[], float]:
    """A side that gets actions as they are when they have come in and been decoded: nothing else is known of them."""
    return lambda: measure([decode(ActionEnvelope, data) for data in encoded])


def _judge(known: Tree, actions: Sequence[ActionEnvelope], threads: int) -> Judged:
    """Judges as a node does that has so many threads for it, and has seen none of the actions before."""

    async def judge() -> Judged:
        verifier = Verifier(WORLD, workers=threads)
        try:
            return await verifier.judge(actions, Actors(known), set())
        finally:
            verifier.close()

    return asyncio.run(judge())


def _judge_and_admit(known: Tree, actions: Sequence[ActionEnvelope]) -> Mempool:
    pool = _pool()
    for action, error in _judge(known, actions, 1):
        assert error is None, error
        pool.add(action)
    return pool


def _verify(covered: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    """Verification of bytes that are there already, with the library that we use."""
    for public_key, signature, data in covered:
        assert verify_bytes(public_key, signature, data)


def _wrong_order(arrivals: Sequence[ActionEnvelope]) -> str | None:
    pool = _pool()
    admitted = [action for action in arrivals if pool.add(action)]
    if [action.action_id for action in admitted] != list(dict.fromkeys(action.action_id for action in arrivals)):
        return "a duplicate was admitted, or an action lost"
    return None if pool.actions() == admitted else "the order of arrival is not kept"


def _wrong_signatures(known: Tree, actions: Sequence[ActionEnvelope]) -> str | None:
    forged = ActionEnvelope(
        **{
            **{name: getattr(actions[0], name) for name in ActionEnvelope.__dataclass_fields__},
            "signature": actions[1].signature,
        }
    )
    ((_, error),) = _judge(known, [forged], 1)
    return None if isinstance(error, InvalidSignature) else f"a forged signature was admitted: {error}"
