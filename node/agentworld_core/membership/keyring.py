"""Which keys count: by height for what the chain contains, and at once less the known revocations for what is live.

A block or certificate is judged by the directory in force at its height, so that everybody, for ever, gives the same
answer. A vote, proposal, head or request is live: for it a revocation counts from the moment it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentworld_core.errors import KeyRevoked, NotFound, StateMismatch
from agentworld_core.membership.directory import (
    check_first_directory,
    check_next_directory,
    directory_hash,
    find_member,
    key_in_directory,
)
from agentworld_core.membership.revocation import RevocationSet
from agentworld_core.messages import Directory, KeyEntry, Revocation


class Keyring:
    """The directory chain of one world with the heights from which its epochs govern, and the known revocations."""

    def __init__(self, first: Directory, *, statements: Iterable[Revocation] = ()):
        check_first_directory(first)
        self._epochs: list[tuple[int, Directory]] = [(0, first)]
        self.revocations = RevocationSet(statements)
        self._revoked: tuple[int, int, frozenset[str]] | None = None

    @property
    def newest(self) -> Directory:
        """The last epoch of the chain, which may not be in force yet."""
        return self._epochs[-1][1]

    @property
    def newest_effective_height(self) -> int:
        """The height from which the last epoch governs."""
        return self._epochs[-1][0]

    def append(self, directory: Directory, *, effective_height: int) -> None:
        """Adds the next epoch, which a committed block has put in force from this height on.

        Raises a typed error when it may not follow, or would govern from no later height than its predecessor. The same
        epoch again changes nothing; another of the same number is a fork and is refused.
        """
        for known_height, known in self._epochs:
            if known.epoch == directory.epoch:
                if directory_hash(known) == directory_hash(directory) and known_height == effective_height:
                    return
                raise StateMismatch("another directory has this epoch", field="epoch", value=directory.epoch)
        check_next_directory(self.newest, directory)
        if effective_height <= self.newest_effective_height:
            says = f"must be above {self.newest_effective_height}"
            raise StateMismatch(says, field="effective_height", value=effective_height)
        self._epochs.append((effective_height, directory))

    def at(self, height: int) -> Directory:
        """Returns the directory in force at the height."""
        for effective_height, directory in reversed(self._epochs):
            if effective_height <= height:
                return directory
        raise NotFound("no directory is known for this height", field="height", value=height)

    def pending_at(self, height: int) -> Directory | None:
        """Returns the committed directory that is not in force at the height yet, if there is one."""
        return self.newest if self.newest_effective_height > height else None

    def epoch(self, number: int) -> Directory | None:
        """Returns the directory of that epoch, or None."""
        return next((directory for _, directory in self._epochs if directory.epoch == number), None)

    @property
    def revoked_key_ids(self) -> frozenset[str]:
        """The keys that no longer count for anything live: known statements and all that the newest epoch lists."""
        known, epochs = len(self.revocations), len(self._epochs)  # both only grow
        if self._revoked is None or self._revoked[:2] != (known, epochs):
            listed = (item.key_id for item in self.newest.revoked)
            self._revoked = (known, epochs, self.revocations.key_ids.union(listed))
        return self._revoked[2]

    def key_at(self, height: int, *, member_id: str, key_id: str) -> KeyEntry:
        """Returns the member's key for what was signed at that height; raises Unauthorized or KeyRevoked."""
        return key_in_directory(self.at(height), member_id, key_id)

    def live_key(self, height: int, *, member_id: str, key_id: str) -> KeyEntry:
        """Returns the member's key for what is signed now, at that height; raises Unauthorized or KeyRevoked."""
        if key_id in self.revoked_key_ids:
            raise KeyRevoked("is revoked", field="key_id", value=key_id)
        return self.key_at(height, member_id=member_id, key_id=key_id)

    def signing_key(self, height: int, *, member_id: str, available: Sequence[str], active: str | None) -> str | None:
        """Returns the id of the key that the member should sign with at the height, or None when none would count.

        It is ``active`` where that counts, else the one of the newest generation that it has (``available``).
        """
        member = find_member(self.at(height), member_id)
        if member is None:
            return None
        usable = [key for key in member.keys if key.key_id in available and key.key_id not in self.revoked_key_ids]
        if any(key.key_id == active for key in usable):
            return active
        newest = max(usable, key=lambda key: (key.generation, key.key_id), default=None)
        return newest.key_id if newest is not None else None
