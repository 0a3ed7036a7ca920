"""Random histories of a world from a seed, and a program that writes down every byte that each of them makes.

A history takes two sources of chance. The seed decides what happens. ``order`` decides what must not matter: in which
order the entries of maps, the members, keys and revocations of a directory, signatures and votes are given, and whether
the chain goes on from what it has in memory or from the snapshot that it has just written.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import locale
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agentworld_core.codec import encode
from agentworld_core.consensus.certificates import certificate_of
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id, digest
from agentworld_core.ledger.block import Execution, HeaderInput, block_hash_of, execute
from agentworld_core.ledger.chain import plan_directory_change
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.membership.builder import Changes, key_entry, next_directory, revoked_key, with_keys
from agentworld_core.messages import (
    PRECOMMIT,
    ActionEnvelope,
    BlockBundle,
    Directory,
    Genesis,
    Member,
    Parameters,
    Revocation,
    Vote,
    WorldBlock,
)
from agentworld_core.ordering.batch import BatchLimits, draft_batch
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_core.signing import Ed25519Signer, add_signature, sign
from agentworld_core.world.actions import check_admission, make_action, sign_action
from agentworld_core.world.kernel import MAILBOX_LIMIT

WORLD = "aurora"
AGENTS = ("ada", "bob", "eve", "joe")
FIRST_MEMBERS = ("a", "b", "c", "d")
BLOCKS = 7
FLOOD_EVERY = 25
LIMITS = BatchLimits(max_actions=64, max_bytes=64 * 1024)
_T = TypeVar("_T")


@functools.cache
def signer(name: str) -> Ed25519Signer:
    """The key that a name always has."""
    return Ed25519Signer(digest(name.encode()))


class History:
    """One history of a world; ``lines`` names every byte of it by content id, and says why what was refused was."""

    def __init__(self, seed: int, order: random.Random, *, restarts: bool = False):
        self.seed = seed
        self.rng = random.Random(f"history {seed}")
        self.order = order
        self.restarts = restarts
        self.lines: list[str] = []
        self.seen: set[str] = set()
        self.nonces = dict.fromkeys(AGENTS, 0)
        self.keys = {signer(name).key_id: signer(name) for name in ("gov", "gov2", *FIRST_MEMBERS)}
        self.genesis = self._genesis()
        self.chain = chain_from_genesis(self.genesis)
        self.directories = [self.genesis.directory]
        self.blobs: dict[str, bytes] = {}
        self.mempool = Mempool(MempoolLimits(), LIMITS)

    def run(self) -> History:
        """Makes all blocks."""
        self._note("genesis", encode(self.genesis))
        for _ in range(BLOCKS):
            self._block()
        return self

    def _note(self, what: str, data: bytes) -> None:
        self.lines.append(f"{self.seed} {self.chain.height} {what} {content_id(data)}")

    def _refused(self, what: str, error: AgentWorldError) -> None:
        self.seen.add(f"error {error.code}")
        self.lines.append(f"{self.seed} {self.chain.height} {what} refused: {error.code}: {error}")

    def _anyhow(self, items: Iterable[_T]) -> list[_T]:
        """The items in an order that must not matter."""
        shuffled = list(items)
        self.order.shuffle(shuffled)
        return shuffled

    # Blocks

    def _block(self) -> None:
        if self.seed % FLOOD_EVERY == 0:
            self._flood()
        for _ in range(self.rng.randrange(8)):
            self._submit(self._action())
        directory = self._directory() if self.rng.random() < 0.5 else None
        proposer = self.rng.choice(self._governing().members)
        key = self._key_of(proposer)
        term = self.chain.term + self.rng.choice((0, 0, 1))
        header = HeaderInput(
            height=self.chain.next_height,
            term=term,
            attempt=self.rng.randrange(3),
            proposer_id=proposer.member_id,
            key_id=key.key_id,
            timestamp_ms=self.chain.time_ms + self.rng.randrange(2000),
        )
        actions = self.mempool.take_batch()
        batch = draft_batch(
            WORLD,
            actions,
            height=header.height,
            term=term,
            proposer_id=header.proposer_id,
            timestamp_ms=header.timestamp_ms,
            directory=directory,
        )
        batch = sign(batch, key)
        execution = execute(self.chain, batch, header)
        block = sign(execution.block, key)
        self._take(execution, BlockBundle(block, batch, self._certificate(block)))

    def _take(self, execution: Execution, bundle: BlockBundle) -> None:
        checked = check_bundle(self.chain, bundle)
        self.chain = execution.chain_after(bundle.block)
        assert checked.block_hash == self.chain.block_hash
        if bundle.batch.directory is not None:
            self.directories.append(bundle.batch.directory)
        self.mempool.remove(action.action_id for action in bundle.batch.actions)
        self._note("block", encode(bundle))
        for event in execution.events:
            self.seen.add(f"event {event.kind}")
        for receipt in execution.receipts:
            self.seen.add(f"receipt {receipt.code}")
            self._note("receipt", encode(receipt))
        for name, data in execution.blobs.items():
            assert content_id(data) == name
            self._note("blob", data)
        self.blobs.update(execution.blobs)
        if self.restarts and bundle.block.snapshot_ref is not None:
            self.chain = chain_from_snapshot(
                self.genesis, bundle, directories=self.directories, fetch=self.blobs.__getitem__
            )

    def _certificate(self, block: WorldBlock) -> Any:
        votes = []
        for member in self._anyhow(self._governing().members):
            vote = Vote(
                world_id=WORLD,
                height=block.height,
                term=block.term,
                attempt=block.attempt,
                phase=PRECOMMIT,
                block_hash=block_hash_of(block),
                directory_epoch=block.directory_epoch,
                validator_id=member.member_id,
                key_id="",
                signature=b"",
            )
            votes.append(sign(vote, self._key_of(member)))
        return certificate_of(votes)

    # Actions

    def _submit(self, action: ActionEnvelope) -> None:
        """Puts an action into the mempool, also one that the world will refuse; not one that no block may hold."""
        try:
            check_admission(self.chain.tree, action, world_id=WORLD, now_ms=self.chain.time_ms)
        except AgentWorldError as error:
            self._refused("admission", error)
            if error.code in ("hash_mismatch", "invalid_signature", "wrong_world"):
                return
        try:
            self.mempool.add(action)
        except AgentWorldError as error:
            self._refused("mempool", error)

    def _act(self, actor: str, kind: str, payload: dict[str, Any], *, nonce: int | None = None) -> ActionEnvelope:
        if nonce is None:
            self.nonces[actor] += self.rng.choice((1, 1, 1, 3))
            nonce = self.nonces[actor]
        entries = dict(self._anyhow(payload.items()))
        draft = make_action(
            world_id=WORLD, actor_id=actor, kind=kind, payload=entries, nonce=nonce, timestamp_ms=self.chain.time_ms
        )
        return sign_action(draft, signer(actor))

    def _action(self) -> ActionEnvelope:
        rng, actor, other = self.rng, self.rng.choice(AGENTS), self.rng.choice(AGENTS)
        thing = rng.choice((f"of-{actor}", f"thing-{rng.randrange(3)}"))
        position = [rng.randrange(-9, 9), rng.randrange(-9, 9)]
        good = self._act(actor, "agent.move", {"to": position})
        makers: Sequence[Callable[[], ActionEnvelope]] = (
            lambda: self._act(actor, "agent.register", {"position": position}),
            lambda: self._act(actor, "agent.register", {"position": position}),
            lambda: good,
            lambda: self._act(actor, "object.create", {"object_id": thing, "data": self._data()}),
            lambda: self._act(actor, "object.update", {"object_id": thing, "data": self._data()}),
            lambda: self._act(actor, "message.send", {"to": other, "body": self._data()}),
            lambda: self._act(actor, "mailbox.clear", {"up_to": rng.randrange(4)}),
            lambda: self._act(actor, "dragon.summon", {"size": 3}),
            lambda: self._act(actor, "agent.move", {"to": [1]}),
            lambda: self._act(actor, "agent.move", {"to": [1, 2], "at": 3}),
            lambda: self._act(actor, "object.create", {"object_id": "UPPER", "data": None}),
            lambda: self._act(actor, "message.send", {"to": other, "body": "x" * 1100}),
            lambda: self._act(actor, "agent.move", {"to": position}, nonce=rng.randrange(4)),
            lambda: sign_action(dataclasses.replace(good, action_id=""), signer(other)),
            lambda: dataclasses.replace(good, signature=bytes(64)),
            lambda: dataclasses.replace(good, payload_hash="0" * 64),
            lambda: sign_action(dataclasses.replace(good, action_id="", world_id="other"), signer(actor)),
            lambda: sign_action(dataclasses.replace(good, action_id="", timestamp_ms=2**53), signer(actor)),
        )
        return rng.choice(makers)()

    def _data(self) -> Any:
        names = ["b", "a", "aa", "ключ", "", "é", "e\u0301", "Z", "ı", "I", "10", "9"]
        chosen = self.rng.sample(names, self.rng.randrange(len(names)))
        values = [self.rng.choice((None, True, -1, 2**40, "ß", b"\x00", [1, [2]], {"z": 1})) for _ in chosen]
        return dict(self._anyhow(zip(chosen, values, strict=True)))

    def _flood(self) -> None:
        """Fills the mailbox of joe, a part in every block."""
        if self.chain.height == 0:
            for name in ("ada", "joe"):
                self._submit(self._act(name, "agent.register", {"position": [0, 0]}))
            return
        for number in range(1 + MAILBOX_LIMIT // (BLOCKS - 2)):
            self._submit(self._act("ada", "message.send", {"to": "joe", "body": number}))

    # Membership

    def _governing(self) -> Directory:
        return self.chain.directory_at(self.chain.next_height)

    def _key_of(self, member: Member) -> Ed25519Signer:
        return self.keys[member.keys[-1].key_id]

    def _new_key(self, name: str, generation: int) -> Ed25519Signer:
        made = signer(f"{name}/{generation}")
        self.keys[made.key_id] = made
        return made

    def _genesis(self) -> Genesis:
        members = [self._member(name) for name in FIRST_MEMBERS]
        directory = Directory(
            world_id=WORLD,
            epoch=1,
            previous_hash="",
            members=tuple(members),
            fault_model=self.rng.choice(("Byzantine", "Crash")),
            governance=(key_entry(signer("gov").public_key, 1),),
            governance_threshold=1,
            revoked=(),
            activation_delay=2,
            issued_at_ms=1000,
            expires_at_ms=None,
            reason=None,
            signatures=(),
        )
        parameters = Parameters(0, 64, 64 * 1024, self.rng.choice((1, 3, 50)), self.rng.choice((1, 2)), leaseless=False)
        directory = add_signature(directory, signer("gov"))
        return add_signature(Genesis(WORLD, 1000, parameters, directory, ()), signer("gov"))

    def _member(self, name: str) -> Member:
        return Member(name, f"peer-{name}", (key_entry(signer(name).public_key, 1),), 1, ("validator",))

    def _directory(self) -> Directory | None:
        """A next epoch for the next block; None when it is refused, which is written down."""
        current = self.rng.choice((*[self.directories[-1]] * 5, self.directories[0]))
        changes = self._changes(current)
        proposed = next_directory(
            current,
            changes,
            now_ms=self.chain.time_ms,
            expires_at_ms=self.rng.choice((None, None, self.chain.time_ms, 2**50)),
            activation_delay=self.rng.choice((1, 2, 3)),
        )
        governance = sorted({key.key_id for key in (*current.governance, *proposed.governance)})
        unsigned = self.rng.random() < 0.1
        for key_id in [] if unsigned else self._anyhow(governance):
            proposed = add_signature(proposed, self.keys[key_id])
        try:
            plan_directory_change(self.chain, proposed, time_ms=self.chain.time_ms)
        except AgentWorldError as error:
            self._refused("directory", error)
            return None
        self.seen.add("directory")
        self._note("directory", encode(proposed))
        # It may have expired by the time of its block.
        return proposed if proposed.expires_at_ms in (None, 2**50) else None

    def _changes(self, current: Directory) -> Changes:
        members, member = list(current.members), self.rng.choice(current.members)
        fault_model = None
        governance = current.governance
        revoked = []
        match self.rng.randrange(6):
            case 0:
                name = f"m{current.epoch}"
                self.keys[signer(name).key_id] = signer(name)
                members.append(self._member(name))
            case 1 if len(members) > 1:
                members.remove(member)
            case 2:
                generation = member.keys[-1].generation + 1
                added = key_entry(self._new_key(member.member_id, generation).public_key, generation)
                members = list(with_keys(current, member.member_id, self._anyhow((*member.keys[-2:], added))))
            case 3:
                victims = self.rng.sample(members, min(2, len(members)))
                revoked = [revoked_key(self._revocation(victim.keys[0].key_id)) for victim in victims]
            case 4:
                names = self.rng.choice((("gov",), ("gov2", "gov"), ("gov2",)))
                governance = tuple(key_entry(signer(name).public_key, 1) for name in names)
            case _:
                fault_model = self.rng.choice(("Byzantine", "Crash", "Hope"))
        return Changes(
            members=self._anyhow(members),
            governance=self._anyhow(governance),
            governance_threshold=len(governance),
            revoked=self._anyhow(revoked),
            fault_model=fault_model,
        )

    def _revocation(self, key_id: str) -> Revocation:
        return Revocation(WORLD, key_id, "leaked", self.chain.time_ms, "operator", ())


def write(lines: Iterable[str]) -> None:
    """Writes lines in UTF-8, whatever the locale says."""
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())


def main() -> None:
    """Prints the lines of all histories in order of their seeds, then what was seen in any of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1, help="number of histories")
    parser.add_argument("--workers", type=int, default=1, help="histories at the same time")
    parser.add_argument("--order", type=int, default=0, help="seed of what must not matter")
    parser.add_argument("--restarts", action="store_true", help="go on from every snapshot")
    options = parser.parse_args()
    locale.setlocale(locale.LC_ALL, "")

    def run(seed: int) -> History:
        return History(seed, random.Random(f"order {options.order} {seed}"), restarts=options.restarts).run()

    seen: set[str] = set()
    with ThreadPoolExecutor(options.workers) as pool:
        for history in pool.map(run, range(options.first, options.first + options.count)):
            write(history.lines)
            seen |= history.seen
    write([f"seen {name}" for name in sorted(seen)])


if __name__ == "__main__":
    main()
