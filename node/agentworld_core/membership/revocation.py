"""Revocations: statements that prove themselves, in a set that only grows (design decision 15).

A statement counts on its own, whoever passed it on; nothing else can take a key away. It counts at once for live
messages, and from the directory that lists it for what is judged by height. Every new directory lists all statements
that its maker knows, so that they stay provable when the governance keys that signed them are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agentworld_core.codec import encode_value
from agentworld_core.errors import StateMismatch, WrongWorld
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import check_threshold, usable_governance
from agentworld_core.messages import Directory, Revocation, Revocations
from agentworld_core.signing import unsigned_id


def check_revocation(
    statement: Revocation,
    directory: Directory,
    *,
    revoked_key_ids: Collection[str] = (),
    forced: bool = False,
) -> None:
    """Raises a typed error unless the statement proves itself under the newest directory, and may be carried out.

    It is proven by the governance threshold of the directory, less the keys revoked already (a key may sign its own
    revocation), or by being listed in the directory, whoever signed it then. One that leaves fewer usable governance
    keys than must sign is refused unless ``forced``. That guards the door through which statements enter a world; what
    comes from other nodes has passed it and is checked with ``forced``, or nodes could differ for ever.
    """
    if statement.world_id != directory.world_id:
        raise WrongWorld("is another world", field="world_id", value=statement.world_id)
    if not is_listed(statement, directory):
        others = [key_id for key_id in revoked_key_ids if key_id != statement.key_id]
        check_threshold(statement, directory, revoked_key_ids=others)
    if not forced:
        check_governance_remains(directory, statement.key_id, revoked_key_ids=revoked_key_ids)


def is_listed(statement: Revocation, directory: Directory) -> bool:
    """True when the directory carries out this very statement."""
    listed = statement_id(statement)
    return any(item.key_id == statement.key_id and item.statement == listed for item in directory.revoked)


def check_governance_remains(directory: Directory, key_id: str, *, revoked_key_ids: Collection[str] = ()) -> None:
    """Raises StateMismatch when without this key no further directory or revocation could ever be signed."""
    before = usable_governance(directory, revoked_key_ids)
    if all(key.key_id != key_id for key in before):
        return
    remaining = len(before) - 1
    if remaining < directory.governance_threshold:
        raise StateMismatch(
            f"would leave {remaining} usable governance keys of the {directory.governance_threshold} that must sign",
            field="key_id",
            value=key_id,
            remedy="rotate the governance key first, or force it",
        )


def statement_id(statement: Revocation) -> str:
    """Returns the id of the statement, the same whoever signed it."""
    return unsigned_id(statement)


def set_hash(key_ids: Iterable[str]) -> str:
    """Returns the content id of a set of revoked key ids, whatever their order."""
    return content_id(encode_value(sorted(set(key_ids))))


class RevocationSet:
    """The revocations that a node knows: it only grows, and the first statement for a key stays."""

    def __init__(self, statements: Iterable[Revocation] = ()):
        self._statements: dict[str, Revocation] = {}
        for statement in statements:
            self.add(statement)

    def __len__(self) -> int:
        return len(self._statements)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._statements

    def add(self, statement: Revocation) -> bool:
        """Adds a checked statement; False when the key is revoked already."""
        if statement.key_id in self._statements:
            return False
        self._statements[statement.key_id] = statement
        return True

    def get(self, key_id: str) -> Revocation | None:
        """Returns the statement that revokes the key, or None."""
        return self._statements.get(key_id)

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of all revoked keys."""
        return frozenset(self._statements)

    @property
    def hash(self) -> str:
        """The content id of the set of key ids: equal on two nodes that know the same revocations."""
        return set_hash(self._statements)

    def missing_from(self, key_ids: Collection[str]) -> tuple[Revocation, ...]:
        """Returns the statements that somebody who knows only these key ids lacks, sorted by key id."""
        return tuple(self._statements[key_id] for key_id in sorted(self._statements) if key_id not in key_ids)

    def as_message(self, world_id: str) -> Revocations:
        """Returns all statements, sorted by key id."""
        return Revocations(world_id=world_id, statements=self.missing_from(()))
