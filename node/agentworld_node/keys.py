"""The node signs with the key its folder names active, and takes up new keys without a restart.

A key folder holds ``g<generation>.pem`` (PKCS#8 Ed25519) for each generation the node may sign with and ``active``
(the key id to sign with now). On Kubernetes it is a mounted Secret, whose files change by an exchanged link; on one
machine it is a plain folder. Both are simply read again: a folder read is cheap and misses nothing, a watch may.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from agentworld_core.errors import InvalidField
from agentworld_core.messages import KeyEntry
from agentworld_core.signing import Ed25519Signer

log = logging.getLogger(__name__)

_KEY_FILE = re.compile(r"g([0-9]{1,9})\.pem")


@dataclasses.dataclass(frozen=True)
class KeySet:
    """What a key folder held at one moment: signers by key id, their generations, the active key id, and complaints."""

    signers: dict[str, Ed25519Signer]
    generations: dict[str, int]
    active_key_id: str
    problems: tuple[str, ...]


class KeyFolder:
    """Reads the keys of a folder; ``reload`` says whether anything changed."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._keys = KeySet({}, {}, "", ())
        self.reload()

    @property
    def keys(self) -> KeySet:
        """The keys as last read."""
        return self._keys

    def reload(self) -> bool:
        """Reads the folder again and returns True when the usable keys or the active one changed.

        A file that cannot be read as a key is reported in ``problems`` and leaves the other keys usable.
        """
        found = self._read()
        changed = (found.generations, found.active_key_id) != (self._keys.generations, self._keys.active_key_id)
        for problem in found.problems:
            if problem not in self._keys.problems:
                log.warning("key folder: %s", problem)
        self._keys = found
        return changed

    def choose(self, trusted: Iterable[KeyEntry], revoked: Collection[str] = ()) -> Ed25519Signer | None:
        """Returns the signer to use where these keys are trusted: the active one, else the newest, else None."""
        usable = {
            entry.key_id for entry in trusted if entry.key_id not in revoked and entry.key_id in self._keys.signers
        }
        if self._keys.active_key_id in usable:
            return self._keys.signers[self._keys.active_key_id]
        newest = max(usable, key=lambda key_id: (self._keys.generations[key_id], key_id), default=None)
        return None if newest is None else self._keys.signers[newest]

    def _read(self) -> KeySet:
        signers: dict[str, Ed25519Signer] = {}
        generations: dict[str, int] = {}
        problems: list[str] = []
        active = ""
        if self._folder is None:
            return KeySet(signers, generations, active, ())
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError as error:
            return KeySet(signers, generations, active, (f"{self._folder}: {error.strerror}",))
        for name in names:
            match = _KEY_FILE.fullmatch(name)
            try:
                if match:
                    signer = Ed25519Signer.from_pem((self._folder / name).read_bytes(), field=name)
                    signers[signer.key_id] = signer
                    generations[signer.key_id] = int(match.group(1))
                elif name == "active":
                    active = (self._folder / name).read_text().strip()
            except (OSError, InvalidField, UnicodeDecodeError) as error:
                problems.append(f"{name}: {error}")
        if active and active not in signers:
            problems.append(f"active: names the key {active}, which is not in the folder")
        return KeySet(signers, generations, active, tuple(problems))
