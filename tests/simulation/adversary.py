"""Validators that break the rules, never more of them than the quorum tolerates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_vote
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote
from agentworld_core.signing import sign
from tests.simulation.net import Frame
from tests.simulation.node import SimNode
from tests.unit.core.membership.worlds import signer

if TYPE_CHECKING:
    from tests.simulation.world import World


class Twin(SimNode):
    """One of two processes that run as the same validator with the same key, each heard by some of the others only."""

    honest = False

    def send(self, frame: Frame) -> None:
        for end in self.world.net.ends:
            if end != self.end and self.rng.random() < 0.5:
                self.world.net.send(self.end, end, frame)


class Liar:
    """Hears everything and votes for anything, differently to each."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.rng = world.kernel.rng("liar")
        self.heard: list[Vote] = []
        world.net.attach(f"{name}-liar", self.receive)

    def receive(self, _source: str, frame: Frame) -> None:
        """Remembers votes, and answers each with votes that suit nobody."""
        if frame[0] != "vote":
            return
        vote = self.world.decode(Vote, frame[1])
        self.heard = [*self.heard[-20:], vote]
        directory = self.world.oracles.directory_at(vote.height)
        for end in self.world.net.ends:
            if self.rng.random() < 0.15:
                seen = self.rng.choice(self.heard)
                round_ = Round(vote.term, vote.attempt + self.rng.choice((0, 0, 0, 1, 3)))
                draft = draft_vote(
                    directory,
                    validator_id=self.name,
                    height=vote.height,
                    round_=round_,
                    phase=self.rng.choice((PREVOTE, PRECOMMIT)),
                    block_hash=self.rng.choice((seen.block_hash, vote.block_hash, None)),
                )
                self.world.net.send(f"{self.name}-liar", end, ("vote", encode(sign(draft, signer(self.name)))))
