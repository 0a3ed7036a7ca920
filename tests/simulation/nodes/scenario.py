"""What one seed turns on: some of the faults, each more or less often, the weather, and what people want."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.simulation.nodes.faults import FAULTS
from tests.simulation.nodes.network import CALM, Weather

WISHES = ("transfer", "weight", "member", "rotate", "revoke")
"""What governance may want while the chaos lasts."""


@dataclass(frozen=True)
class Scenario:
    """What goes wrong and what is wanted; weights say how often each kind is chosen against the others."""

    faults: dict[str, float] = field(default_factory=dict)
    wishes: dict[str, float] = field(default_factory=dict)
    weather: Weather = CALM
    liar: bool = False
    rubbish: bool = False
    drift: float = 0.0
    in_parts: bool = False
    leaseless: bool = False
    block_interval_ms: int = 0
    clients: int = 3
    trusting_clients: int = 0
    pauses: tuple[float, float] = (0.05, 1.0)
    every_seconds: tuple[float, float] = (0.2, 3.0)
    chaos_seconds: float = 20.0


def draw(rng: random.Random) -> Scenario:
    """Draws a scenario."""
    weather = Weather(
        loss=rng.choice((0.0, 0.02, 0.1, 0.2)),
        late=rng.choice((0.0, 0.02, 0.1)),
        latency=rng.choice(((0.0005, 0.005), (0.0005, 0.005), (0.02, 0.08))),
    )
    return Scenario(
        faults=_subset(rng, tuple(FAULTS), rng.uniform(0.2, 0.9)),
        wishes=_subset(rng, WISHES, rng.choice((0.0, 0.4, 0.8))),
        weather=weather if rng.random() < 0.8 else CALM,
        liar=rng.random() < 0.3,
        rubbish=rng.random() < 0.6,
        drift=rng.choice((0.0, 0.02, 0.05)),
        in_parts=rng.random() < 0.4,
        leaseless=rng.random() < 0.15,
        block_interval_ms=rng.choice((0, 0, 200)),
        clients=rng.choice((1, 3, 5)),
        trusting_clients=rng.choice((0, 1, 2)),
        pauses=rng.choice(((0.05, 1.0), (0.0, 0.1), (0.5, 3.0))),
        every_seconds=rng.choice(((0.2, 3.0), (0.1, 1.0), (1.0, 5.0))),
    )


def _subset(rng: random.Random, kinds: tuple[str, ...], chance: float) -> dict[str, float]:
    return {kind: rng.choice((0.3, 1.0, 1.0, 3.0)) for kind in kinds if rng.random() < chance}
