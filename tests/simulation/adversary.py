"""Validators that break the rules, never more of them than the quorum tolerates."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_proposal, draft_vote
from agentworld_core.consensus.events import BuildCandidate
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.membership.builder import Changes, with_member
from agentworld_core.membership.directory import find_member
from agentworld_core.messages import (
    PRECOMMIT,
    PREVOTE,
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    Blocks,
    CertificateVote,
    CommitCertificate,
    Directory,
    ProposalBody,
    Round,
    Vote,
    WorldBlock,
)
from agentworld_core.signing import Ed25519Signer, sign
from tests.simulation.chain import Chain
from tests.simulation.history import Frame
from tests.simulation.node import SimNode, key_of
from tests.unit.core.membership.worlds import member, successor

if TYPE_CHECKING:
    from tests.simulation.world import World

FOREIGN_TERM = 10_000
FLOOD = 40
WHISPERED_TERM = 2**40


class Twin(SimNode):
    """One of two processes that run as the same validator with the same key, each heard by some of the others only."""

    honest = False

    def build(self, effect: BuildCandidate) -> None:
        if not self.tells("keeps-the-lease") or not self.keeper.is_held(self.now):
            super().build(effect)

    def wants_lease(self) -> bool:
        return super().wants_lease() or self.tells("keeps-the-lease")

    def tells(self, lie: str) -> bool:
        """True when it is to tell this lie."""
        return lie in self.world.scenario.lies

    def send(self, frame: Frame) -> None:
        if frame[0] == "vote" and self.tells("withheld-votes") and self.world.decode(Vote, frame[1]).block_hash:
            return
        if frame[0] == "proposal" and self.tells("invalid-blocks") and self.rng.random() < 0.8:
            for liar in self.world.liars:
                liar.spoil(frame)  # nobody hears the right block
            return
        for end in self.world.net.ends:
            if end != self.end and self.rng.random() < 0.5:
                self.world.net.send(self.end, end, frame)


class Liar:
    """Hears everything and says anything under the key of its validator, as its scenario tells it to lie."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.end = f"{name}-liar"
        self.rng = world.kernel.rng(f"liar/{name}")
        self.flooded = 1000
        self.heard: deque[Vote] = deque(maxlen=60)
        world.net.attach(self.end, self.receive)

    def start(self) -> None:
        """Begins to lie."""
        self.world.kernel.after(self.rng.randint(*self.world.scenario.lies_every_ms), self.lie)

    def receive(self, _source: str, frame: Frame) -> str:
        """Remembers votes and answers some of them; spoils proposals of its own validator on their way."""
        lies = self.world.scenario.lies
        try:
            if frame[0] == "vote":
                self.heard.append(self.world.decode(Vote, frame[1]))
                if "double-votes" in lies and self.rng.random() < 0.2:
                    self._double_votes()
            elif frame[0] == "proposal" and "invalid-blocks" in lies and self.rng.random() < 0.5:
                self.spoil(frame)
        except AgentWorldError as error:
            return error.code
        return ""

    def spoil(self, frame: Frame) -> None:
        """Proposes something wrong in the round of a proposal of its own validator."""
        proposal = self.world.decode(ProposalBody, frame[1]).proposal
        if proposal.proposer_id == self.name:
            with contextlib.suppress(AgentWorldError):  # production refuses to make it when the chain has gone on
                self._invalid_block(Round(proposal.term, proposal.attempt))

    def lie(self) -> None:
        """Tells one lie, and comes back for more."""
        lies = self.world.scenario.lies
        kind = self.rng.choices(list(lies), weights=list(lies.values()))[0]
        self.world.kernel.reach(f"lie {kind}")
        with contextlib.suppress(AgentWorldError):  # production refuses to make some of what it would refuse to take
            getattr(self, "_" + kind.replace("-", "_"))()
        self.world.kernel.after(self.rng.randint(*self.world.scenario.lies_every_ms), self.lie)

    # What it knows

    def _chain(self) -> Chain:
        """Returns the longest chain that one of its twins has."""
        chains = [twin.chain for twin in self.world.twins if twin.name == self.name and hasattr(twin, "chain")]
        return max(chains, key=lambda chain: chain.height)

    def _key(self, directory: Directory) -> Ed25519Signer:
        entry = find_member(directory, self.name)
        return key_of(self.name, entry.keys[-1].generation if entry is not None else 1)

    def _some(self) -> list[str]:
        share = self.rng.choice((0.5, 1.0))
        return [end for end in self.world.net.ends if end != self.end and self.rng.random() < share]

    def _send(self, frame: Frame) -> None:
        for end in self._some():
            self.world.net.send(self.end, end, frame)

    def _round(self) -> Round:
        """Returns a round that somebody is in, or one near it."""
        if self.heard and self.rng.random() < 0.8:
            seen = self.heard[-1]
            return Round(seen.term, seen.attempt + self.rng.choice((0, 0, 0, 1, 3)))
        chain = self._chain()
        return Round(chain.term, self.rng.randrange(3))

    # The lies

    def _whispers(self) -> None:
        chain, victim = self._chain(), self.world.honest[0]
        directory = chain.keyring.at(chain.height + 1)
        vote = self._vote(directory, chain.height + 1, Round(WHISPERED_TERM, 0), None)
        self.world.net.send(self.end, victim.end, ("vote", encode(vote)))

    def _withheld_votes(self) -> None:
        """The twins see to it."""

    def _keeps_the_lease(self) -> None:
        """The twins see to it."""

    def _vote(self, directory: Directory, height: int, round_: Round, block_hash: str | None) -> Vote:
        draft = draft_vote(
            directory,
            validator_id=self.name,
            height=height,
            round_=round_,
            phase=self.rng.choice((PREVOTE, PRECOMMIT)),
            block_hash=block_hash,
        )
        return sign(draft, self._key(directory))

    def _double_votes(self) -> None:
        if not self.heard:
            return
        near, directory = self.heard[-1], self.world.oracles.directory_at(self.heard[-1].height)
        values = (near.block_hash, self.rng.choice(self.heard).block_hash, None)
        for end in self._some():
            vote = self._vote(directory, near.height, self._round(), self.rng.choice(values))
            self.world.net.send(self.end, end, ("vote", encode(vote)))

    def _flood(self) -> None:
        """Two votes each for more and more rounds far ahead: nobody may have to remember them all."""
        chain = self._chain()
        directory = chain.keyring.at(chain.height + 1)
        begin = self.flooded
        self.flooded += FLOOD
        values = (content_id(b"one"), content_id(b"other"))
        for attempt in range(begin, self.flooded):
            for value in values:
                draft = draft_vote(
                    directory, validator_id=self.name, height=chain.height + 1,
                    round_=Round(FOREIGN_TERM if not self.world.scenario.leaseless else 0, attempt),
                    phase=PREVOTE, block_hash=value,
                )  # fmt: skip
                self._send(("vote", encode(sign(draft, self._key(directory)))))

    def _stale_votes(self) -> None:
        for vote in self.rng.sample(list(self.heard), min(5, len(self.heard))):
            self._send(("vote", encode(vote)))

    def _forged_terms(self) -> None:
        chain = self._chain()
        directory = chain.keyring.at(chain.height + 1)
        highest = max((vote.term for vote in self.heard), default=0)
        round_ = Round(self.rng.choice((0, max(highest - 1, 0), highest + 1, FOREIGN_TERM)), self.rng.randrange(2))
        value = self.heard[-1].block_hash if self.heard else None
        self._send(("vote", encode(self._vote(directory, chain.height + 1, round_, value))))
        self._send_proposal(self._draft(chain, round_), round_)

    def _forged_names(self) -> None:
        if not self.heard:
            return
        vote = self.rng.choice(self.heard)
        options: tuple[dict[str, Any], ...] = (
            {"block_hash": content_id(b"forged"), "signature": vote.signature},
            {"world_id": "another"},
            {"directory_epoch": vote.directory_epoch + 1},
            {"height": vote.height + 1},
            {"phase": PREVOTE + PRECOMMIT - vote.phase},
            self._name_of_another(vote),
            {},
        )
        forged = self.rng.choice(options)
        draft = dataclasses.replace(vote, **forged)
        own = self._key(self.world.oracles.directory_at(vote.height))
        # With its own key but under the name, and with the key id, of somebody else.
        signed = draft if "signature" in forged else dataclasses.replace(sign(draft, own), key_id=draft.key_id)
        self._send(("vote", encode(signed)))

    def _name_of_another(self, vote: Vote) -> dict[str, Any]:
        other = self.rng.choice(self.world.oracles.directory_at(vote.height).members)
        return {"validator_id": other.member_id, "key_id": other.keys[-1].key_id}

    def _conflicting_proposals(self) -> None:
        chain, round_ = self._chain(), self._round()
        first, second = self._draft(chain, round_), self._draft(chain, round_)
        self._send_proposal(first, round_)
        self._send_proposal(second, round_)

    def _invalid_blocks(self) -> None:
        self._invalid_block(self._round())

    def _invalid_block(self, round_: Round) -> None:
        chain = self._chain()
        block, batch = self._draft(chain, round_)
        wrong = content_id(b"wrong")
        options: tuple[dict[str, Any], ...] = (
            {"prev_block_hash": wrong}, {"prev_state_root": wrong}, {"state_root": wrong}, {"action_root": wrong},
            {"term": max(block.term - 1, 0)}, {"term": block.term + 1}, {"directory_hash": wrong},
            {"directory_epoch": block.directory_epoch + 1}, {"height": block.height + 1},
            {"world_id": "another"}, {"proposer_id": self._other()}, {},
        )  # fmt: skip
        changes = self.rng.choice(options)
        if not changes:
            # A batch that repeats an applied action, or brings in a directory that nobody may have signed.
            applied = [action for bundle in chain.bundles[-4:] for action in bundle.batch.actions]
            directory = successor_by_nobody(chain.keyring.newest) if self.rng.random() < 0.5 else None
            block, batch = self._draft_of(chain, round_, tuple(applied[:1]), directory)
        block = sign(dataclasses.replace(block, **changes), self._key(chain.keyring.at(chain.height + 1)))
        self._send_proposal((block, batch), round_)

    def _false_certificates(self) -> None:
        chain = self._chain()
        honest = self.world.oracles.bundles.get(chain.height + 1)
        candidate = self._draft(chain, self._round())
        votes = honest.certificate.votes if honest is not None else ()
        directory = chain.keyring.at(chain.height + 1)
        own = sign(
            draft_vote(
                directory, validator_id=self.name, height=chain.height + 1, round_=self._round(),
                phase=PRECOMMIT, block_hash=content_id(encode(candidate[0])),
            ),
            self._key(directory),
        )  # fmt: skip
        certificate = CommitCertificate(
            world_id=directory.world_id,
            height=chain.height + 1,
            term=own.term,
            attempt=own.attempt,
            block_hash=content_id(encode(candidate[0])),
            directory_epoch=directory.epoch,
            votes=tuple(certificate_votes(own, self.rng.choice((1, 2, len(directory.members))))),
        )
        if honest is not None and self.rng.random() < 0.6:
            # The certificate of the block that was decided: less a vote, with one twice, or with another block.
            fewer = votes[:-1] if self.rng.random() < 0.5 else (*votes[:-1], *votes[:1])
            certificate = dataclasses.replace(honest.certificate, votes=fewer)
            candidate = (honest.block, honest.batch) if self.rng.random() < 0.7 else candidate
        self._send(("blocks", encode(Blocks((BlockBundle(*candidate, certificate),)))))

    # Blocks of its own

    def _other(self) -> str:
        return self.rng.choice([node.name for node in self.world.honest])

    def _draft(self, chain: Chain, round_: Round) -> tuple[WorldBlock, ActionBatch]:
        waiting = [item for item in self.world.clients.waiting.values() if item.action_id not in chain.applied]
        actions = self.rng.sample(waiting, min(len(waiting), self.rng.randrange(3)))
        return self._draft_of(chain, round_, tuple(actions), None)

    def _draft_of(
        self, chain: Chain, round_: Round, actions: tuple[ActionEnvelope, ...], directory: Directory | None
    ) -> tuple[WorldBlock, ActionBatch]:
        key = self._key(chain.keyring.at(chain.height + 1))
        header = chain.header(key, round_, proposer=self.name, time_ms=self.world.twins[0].wall_time)
        return chain.build(key, header, actions=actions, directory=directory)

    def _send_proposal(self, candidate: tuple[WorldBlock, ActionBatch], round_: Round) -> None:
        chain = self._chain()
        directory = chain.keyring.at(chain.height + 1)
        since = Round(round_.term, round_.attempt - 1) if round_.attempt and self.rng.random() < 0.2 else None
        names = {"block_hash": content_id(encode(candidate[0])), "proposer_id": self.name}
        body: ProposalBody = draft_proposal(directory, candidate, round_=round_, since=since, **names)
        signed = dataclasses.replace(body, proposal=sign(body.proposal, self._key(directory)))
        self._send(("proposal", encode(signed)))


def certificate_votes(vote: Vote, count: int) -> list[CertificateVote]:
    """Returns the entry of a vote in a certificate, that many times."""
    return [CertificateVote(vote.validator_id, vote.key_id, vote.signature)] * count


def successor_by_nobody(directory: Directory) -> Directory:
    """Returns a next epoch that governance did not sign."""
    proposed = successor(directory, Changes(members=with_member(directory, member("thief"))))
    return dataclasses.replace(proposed, signatures=(dataclasses.replace(proposed.signatures[0], signature=bytes(64)),))
