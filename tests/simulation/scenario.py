"""What one seed turns on: a random subset of the faults at random strength, so that each has room to do harm."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field

from agentworld_core.membership.directory import BYZANTINE, CRASH

FAULTS = {
    "split": "the network falls into two groups",
    "shatter": "the network falls into three or more groups",
    "isolate": "one node hears nobody and is heard by nobody",
    "one-way": "some directions carry nothing, their opposites do",
    "bridge": "two groups that only one node can reach both of",
    "clog": "what is for one node is held up and then comes all at once",
    "crash": "some nodes, or all, lose their memory and what was not synced",
    "disaster": "the power goes everywhere at once, and the lease with it",
    "pause": "a node stops for up to three lease durations and goes on as if nothing had been",
    "clock-jump": "a node's clock leaps forward",
    "wall-clock": "the time of day of one node is an hour off, either way",
    "slow-disk": "a node's syncs take up to two seconds",
    "disk-error": "a sync fails, which ends the process",
    "lease-away": "the lease service does not answer",
    "lease-lost": "somebody deletes the lease",
    "lease-split": "nodes see two leases that disagree",
    "lease-edit": "somebody edits the lease by hand: a lower or higher term, an unknown holder",
    "hand-over": "governance wants another validator to write",
    "revoke": "the key of a malicious validator is revoked",
    "membership": "validators are added, removed, weighted anew, given new keys, one change at a time",
}
"""The faults that are drawn again and again while chaos lasts."""

LIES = {
    "double-votes": "votes for anything, differently to each, in this round and later ones",
    "flood": "votes twice in each of more and more rounds far ahead",
    "stale-votes": "repeats what it heard long ago",
    "forged-terms": "votes and proposes in terms that no lease ever had",
    "forged-names": "signs with its own key in the name of others, for other worlds and epochs",
    "conflicting-proposals": "proposes other blocks to other nodes in one round",
    "invalid-blocks": "proposes blocks with a wrong parent, root, term, directory or action",
    "false-certificates": "offers blocks with certificates that lack a vote, repeat one, or are of another block",
    "whispers": "votes in a term far away, and lets one validator alone hear it",
    "withheld-votes": "votes for no block",
    "keeps-the-lease": "never gives the lease up, and proposes nothing while it holds it",
}
"""What a malicious validator does besides running twice with one key, which all of them do."""


RECOVERY_MS = 60_000
"""After healing an action must be committed by all within so much."""
AMONG_LIARS_MS = 120_000
"""The same where malicious validators go on lying: they cost attempts, each of ten seconds once timeouts have grown."""


@dataclass(frozen=True)
class Weather:
    """What the network does to a message when nothing is cut: shares of 1, and milliseconds."""

    loss: float = 0.0
    repeat: float = 0.0
    garble: float = 0.0
    slow: float = 0.0
    latency: tuple[int, int] = (1, 30)
    slowest: int = 3000
    uneven: bool = False


CALM = Weather()


@dataclass(frozen=True)
class Scenario:
    """Who takes part and what goes wrong; ``faults`` says how often each kind is chosen against the others."""

    members: dict[str, int]
    fault_model: str = BYZANTINE
    faulty: tuple[str, ...] = ()
    lies: dict[str, float] = field(default_factory=dict)
    lies_every_ms: tuple[int, int] = (100, 1000)
    faults: dict[str, float] = field(default_factory=dict)
    weather: Weather = CALM
    torn_writes: bool = True
    drift: float = 0.02
    every_ms: tuple[int, int] = (100, 2500)
    chaos_ms: int = 12_000
    recovery_ms: int = RECOVERY_MS
    leaseless: bool = False
    block_interval_ms: int = 0
    pauses_between_actions: tuple[int, ...] = (50, 400, 3000)
    actors: int = 3
    governs: bool = False
    most_actions: int | None = None
    skip: frozenset[int] = frozenset()

    @property
    def spare(self) -> int:
        """The weight that may be malicious."""
        total = sum(self.members.values())
        return 0 if self.fault_model == CRASH else (total - 1) // 3

    def with_(self, **changes: object) -> Scenario:
        """Returns the scenario with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def describe(self) -> list[str]:
        """Returns what is unusual about the scenario, one line each."""
        lines = [f"members {' '.join(f'{n}x{w}' for n, w in self.members.items())}, fault model {self.fault_model}"]
        if self.faulty:
            lies = ", ".join(f"{kind} {share:g}" for kind, share in self.lies.items())
            lines.append(f"malicious {' '.join(self.faulty)}: runs twice{f', {lies}' if lies else ''}")
        if self.faults:
            low, high = self.every_ms
            faults = ", ".join(f"{kind} {share:g}" for kind, share in self.faults.items())
            lines.append(f"faults every {low} to {high} ms for {self.chaos_ms} ms: {faults}")
        if self.weather != CALM:
            changed = [f"{f.name} {getattr(self.weather, f.name)}" for f in dataclasses.fields(Weather)]
            lines.append(f"weather: {', '.join(changed)}")
        defaults = Scenario({})
        names = ("torn_writes", "drift", "leaseless", "block_interval_ms", "pauses_between_actions")
        lines += [f"{name} {getattr(self, name)}" for name in names if getattr(self, name) != getattr(defaults, name)]
        if self.governs:
            lines.append("governance changes the modules of the world")
        if self.most_actions is not None:
            lines.append(f"at most {self.most_actions} actions")
        if self.skip:
            lines.append(f"without the chaos steps {sorted(self.skip)}")
        return lines


def draw(rng: random.Random) -> Scenario:
    """Draws a scenario."""
    crash_model = rng.random() < 0.15
    count = rng.choice((1, 3, 5)) if crash_model else rng.choice((1, 4, 4, 4, 5, 7))
    heavy = rng.random() < 0.3
    members = {f"v{number}": rng.choice((1, 1, 1, 2, 3)) if heavy else 1 for number in range(count)}
    plain = Scenario(members, CRASH if crash_model else BYZANTINE)
    faulty: tuple[str, ...] = ()
    if rng.random() < 0.6:
        for name in reversed(members):
            if sum(members[other] for other in (*faulty, name)) <= plain.spare and rng.random() < 0.8:
                faulty = (*faulty, name)
    possible = [kind for kind in FAULTS if kind != "revoke" or faulty]
    enabled = rng.random()
    faults = _subset(rng, possible, enabled)
    if "membership" in faults:
        faults.pop(
            "wall-clock", None
        )  # or those whose clock is wrong could become a quorum, and their time the world's
    lies = _subset(rng, list(LIES), 0.5) if faulty and rng.random() < 0.6 else {}
    return plain.with_(
        faulty=faulty,
        lies=lies,
        recovery_ms=AMONG_LIARS_MS if lies else RECOVERY_MS,
        faults=faults,
        weather=_draw_weather(rng) if rng.random() < 0.8 else CALM,
        torn_writes=rng.random() < 0.7,
        drift=rng.choice((0.0, 0.02, 0.02, 0.1)),
        every_ms=rng.choice(((100, 2500), (100, 2500), (20, 500), (1000, 5000))),
        leaseless=rng.random() < 0.15,
        block_interval_ms=rng.choice((0, 0, 200)),
        pauses_between_actions=rng.choice(((50, 400, 3000), (50, 400, 3000), (10, 30), (2000,))),
        actors=rng.choice((1, 3, 8)),
        governs=rng.random() < 0.3,
    )


def _subset(rng: random.Random, kinds: list[str], chance: float) -> dict[str, float]:
    """Returns some kinds, each with how often it is chosen against the others."""
    return {kind: rng.choice((0.3, 1.0, 1.0, 3.0)) for kind in kinds if rng.random() < chance}


def _draw_weather(rng: random.Random) -> Weather:
    return Weather(
        loss=rng.choice((0, 0.05, 0.2, 0.4)),
        repeat=rng.choice((0, 0.2)),
        garble=rng.choice((0, 0, 0.02)),
        slow=rng.choice((0, 0.05, 0.3)),
        latency=rng.choice(((1, 30), (1, 30), (0, 2), (40, 120))),
        uneven=rng.random() < 0.2,
    )
