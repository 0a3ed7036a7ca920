"""B6: admission to the mempool against Redis, and with signatures against bare verification.

Half of the actions are duplicates; 64 senders share them by Zipf's law with exponent 1.2. Redis does what admission
without signatures does, a guard by action id and an append, in pipelines of 256 that are encoded beforehand.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.batch import BatchLimits
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_core.signing import signed_bytes, verify_bytes
from agentworld_core.world.actions import check_admission, make_action, sign_action
from agentworld_core.world.tree import Tree
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
                ours=lambda: cpu(lambda: _admit(_pool(), arrivals), items=len(arrivals)),
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
        ours=lambda: cpu(lambda: _judge_and_admit(known, signed), items=len(signed)),
        theirs=lambda: cpu(lambda: _verify(covered), items=len(signed)),
        goal=0.9,
        check=lambda: _wrong_signatures(known, signed),
    )
    yield Case(
        id="B6",
        case="judging in two threads",
        peer="in one",
        ours=lambda: wall(lambda: _judge_in_threads(known, signed, 2), items=len(signed)),
        theirs=lambda: wall(lambda: _judge_in_threads(known, signed, 1), items=len(signed)),
        goal=1.7,
    )
    yield from _growth(setting)


def _growth(setting: Setting) -> Iterator[Case]:
    """Admission of 1,000 actions to a mempool with many, and selection of a batch from it, against one with few."""
    many, few = setting.size(50_000, 2_000), 1_000
    unsigned = [_unsigned(number) for number in range(many + 500)]
    large, small = _pool(), _pool()
    _admit(large, unsigned[:many])
    _admit(small, unsigned[:few])
    probe = unsigned[many:]

    def cost(pool: Mempool) -> float:
        seconds = cpu(lambda: _admit(pool, probe), items=len(probe))
        pool.remove(action.action_id for action in probe)
        return seconds

    yield Case(
        id="B6",
        case=f"admission to a mempool with {many:,} actions",
        peer=f"with {few:,}",
        ours=lambda: cost(large),
        theirs=lambda: cost(small),
        goal=1.5,
        kind="cost",
    )
    yield Case(
        id="B6",
        case=f"a batch of 512 from {many:,} actions",
        peer=f"from {few:,}",
        ours=lambda: cpu(large.take_batch, items=1),
        theirs=lambda: cpu(small.take_batch, items=1),
        goal=1.5,
        kind="cost",
    )


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


def _judge(known: Tree, actions: Sequence[ActionEnvelope]) -> None:
    for action in actions:
        check_admission(known, action, world_id=WORLD)


def _judge_and_admit(known: Tree, actions: Sequence[ActionEnvelope]) -> Mempool:
    pool = _pool()
    for action in actions:
        check_admission(known, action, world_id=WORLD)
        pool.add(action)
    return pool


def _judge_in_threads(known: Tree, actions: Sequence[ActionEnvelope], threads: int) -> None:
    share = -(-len(actions) // threads)
    with ThreadPoolExecutor(max_workers=threads) as workers:
        parts = [actions[start : start + share] for start in range(0, len(actions), share)]
        list(workers.map(lambda part: _judge(known, part), parts))


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
    try:
        check_admission(known, forged, world_id=WORLD)
    except AgentWorldError:
        return None
    return "a forged signature was admitted"
