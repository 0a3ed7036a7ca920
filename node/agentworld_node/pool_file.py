"""The file in which a node keeps over a clean stop what waits in its mempool: whole and of this world, or set aside.

It holds the digest (BLAKE3) of everything after it, then a map in deterministic CBOR. Nothing in it is trusted: its
actions are judged again like those of strangers.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentworld_core.codec import decode, decode_value, encode, encode_value
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import digest
from agentworld_core.messages import ActionEnvelope
from agentworld_node.storage.files import LOCAL_FILES, FileSystem, put_durably

log = logging.getLogger(__name__)

FILE_LIMIT = 512 * 1024 * 1024
_FORMAT = "agentworld-pool-1"
_DIGEST_BYTES = 32


class PoolDamaged(AgentWorldError):
    """The file of waiting actions is damaged, or is none; the node starts without it and sets it aside."""

    code = "pool_damaged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """An action that waited: who brought it, for how long, whether this node has to pass it on, and its receipt's time.

    ``accepted_at_ms`` is None in a file of a version that did not write it down.
    """

    action: ActionEnvelope
    source: str
    waited_ms: int
    own: bool
    accepted_at_ms: int | None = None


class PoolFile:
    """The file of waiting actions of one data folder, which only the node that holds the folder may touch."""

    def __init__(self, path: Path, world_id: str, *, files: FileSystem = LOCAL_FILES):
        self.path = path
        self._world_id = world_id
        self._files = files

    def load(self) -> list[Kept]:
        """Returns what the file holds, nothing when there is none; a file that is no use is set aside with a warning.

        The file stays: whoever has taken its actions removes it.
        """
        try:
            found = read_pool(self.path, files=self._files)
            if found is None:
                return []
            world_id, kept = found
            if world_id != self._world_id:
                raise PoolDamaged("holds actions of another world", field=str(self.path), value=world_id)
        except (AgentWorldError, OSError) as error:
            log.warning("the waiting actions of the last run are not taken up: %s: %s", self.path, error)
            self._set_aside()
            return []
        return kept

    def write(self, kept: Iterable[Kept]) -> None:
        """Returns when the file holds exactly these actions and is on the disk; raises OSError and leaves what was."""
        document = {
            "format": _FORMAT,
            "world": self._world_id,
            "actions": [
                {
                    "action": encode(one.action),
                    "source": one.source,
                    "waited_ms": one.waited_ms,
                    "own": one.own,
                    "accepted_at_ms": one.accepted_at_ms,
                }
                for one in kept
            ],
        }
        body = encode_value(document)
        put_durably(self._files, self.path, digest(body) + body, temporary=self.path.with_suffix(".new"))

    def remove(self) -> None:
        """Removes the file, if there is one; should a power cut bring it back, taking it up again changes nothing."""
        if self._files.size(self.path) is not None:
            self._files.remove(self.path)
            self._files.sync_folder(self.path.parent)

    def _set_aside(self) -> None:
        try:
            taken = set(self._files.names(self.path.parent))
            number = next(n for n in range(1, len(taken) + 2) if f"{self.path.name}.damaged-{n}" not in taken)
            place = self.path.with_name(f"{self.path.name}.damaged-{number}")
            self._files.rename(self.path, place)
            self._files.sync_folder(self.path.parent)
            log.warning("it has been set aside as %s", place)
        except OSError as error:
            log.warning("%s cannot be set aside: %s", self.path, error)


def read_pool(path: Path, *, files: FileSystem = LOCAL_FILES) -> tuple[str, list[Kept]] | None:
    """Returns of which world the file is and what it holds, None without a file.

    Raises PoolDamaged for what is no such file, and OSError when it cannot be read.
    """
    if path.name not in files.names(path.parent):
        return None
    size = files.size(path)
    if size is None or size > FILE_LIMIT:
        raise PoolDamaged(f"is no file of at most {FILE_LIMIT} bytes", field=str(path))
    data = files.read(path)
    body = data[_DIGEST_BYTES:]
    if digest(body) != data[:_DIGEST_BYTES]:
        raise PoolDamaged("does not have the digest that it says", field=str(path))
    try:
        document: Any = decode_value(body, limit=FILE_LIMIT)
        if document["format"] != _FORMAT:
            raise PoolDamaged("has another format", field=str(path), value=document["format"])
        return str(document["world"]), [_kept(item) for item in document["actions"]]
    except (AgentWorldError, KeyError, TypeError, ValueError) as error:
        raise PoolDamaged(f"is not what a node writes: {error}", field=str(path)) from error


def _kept(item: Mapping[str, Any]) -> Kept:
    action = decode(ActionEnvelope, item["action"])
    source, waited_ms, own = item["source"], item["waited_ms"], item["own"]
    accepted_at_ms = item.get("accepted_at_ms")
    if type(source) is not str or type(own) is not bool:
        raise ValueError("source must be text, and own true or false")
    # Less than the encoding allows, so that it can be written again when more time has passed.
    if type(waited_ms) is not int or not 0 <= waited_ms < 2**63:
        raise ValueError(f"waited_ms must be a time, not {waited_ms!r}")
    if accepted_at_ms is not None and (type(accepted_at_ms) is not int or not -(2**63) <= accepted_at_ms < 2**63):
        raise ValueError(f"accepted_at_ms must be a time, not {accepted_at_ms!r}")
    return Kept(action=action, source=source, waited_ms=waited_ms, own=own, accepted_at_ms=accepted_at_ms)
