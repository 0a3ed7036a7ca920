"""What a node has signed and not yet seen decided, in a log of its own that is pruned behind the commit.

A vote is needed until its height is committed, a block for as long as there is the world; a vote carries the batch that
it is about. The log of blocks notes that there is a log of votes, so that a node whose votes somebody has removed does
not start and vote again. A record is the height, 8 bytes with the highest first, and the message.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from agentworld_node.records import VOTE_LOG
from agentworld_node.storage.errors import VotesMissing
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.wal import WriteAheadLog

SEGMENT_BYTES = 4 * 2**20
"""All of the log is read at a start, and it is about a segment long: this much takes some 10 ms.

A segment still takes four votes for the largest block, so beginning and removing segments is rare beside the syncs.
"""
_HEIGHT = struct.Struct(">Q")


class VoteLog:
    """The log of votes: records of every height that is held stay, whole segments of others go.

    Everything but ``prune`` belongs to the event loop.
    """

    def __init__(self, wal: WriteAheadLog):
        self.wal = wal
        self._first: dict[int, int] = {}  # no record of the height comes before this sequence
        self._needed = 0

    @classmethod
    def open(cls, folder: Path, log: WriteAheadLog, *, files: FileSystem = LOCAL_FILES) -> Self:
        """Opens or creates the log of votes in the folder, beside a log of blocks.

        Raises VotesMissing when there was one, and what opening a log raises.
        """
        check_votes(folder, log, files=files)
        wal = WriteAheadLog.open(folder, segment_bytes=SEGMENT_BYTES, files=files)
        try:
            if not log.sequences(VOTE_LOG):
                # Behind it, so that no crash leaves a note of a log that never was.
                log.append(VOTE_LOG, b"")
                log.sync_now()
        except BaseException:
            wal.close()
            raise
        return cls(wal)

    @staticmethod
    def payload(height: int, message: bytes) -> bytes:
        """Returns what is stored of a message about a height."""
        return _HEIGHT.pack(height) + message

    def above(self, height: int) -> Iterator[tuple[int, bytes]]:
        """Yields kind and message of all that was stored above a committed height.

        They and those of the height itself are held from then on.
        """
        for record in self.wal.records():
            (of,) = _HEIGHT.unpack_from(record.payload)
            if of >= height:
                self._first.setdefault(of, record.sequence)
            if of > height:
                yield record.kind, record.payload[_HEIGHT.size :]

    @property
    def highest(self) -> int:
        """The highest height that is held, 0 when there is none."""
        return max(self._first, default=0)

    def hold(self, height: int) -> None:
        """Keeps all records of a height from the next one on.

        Called before the first of them is appended, because others may complete segments before it is durable.
        """
        self._first.setdefault(height, self.wal.last_sequence + 1)

    def release(self, height: int) -> bool:
        """Lets go of everything up to a height; True when ``prune`` has something to do."""
        for past in [held for held in self._first if held <= height]:
            del self._first[past]
        self._needed = min(self._first.values(), default=self.wal.last_sequence + 1)
        return self.wal.can_prune(self._needed)

    def prune(self) -> None:
        """Removes the segments that hold nothing any more; blocks, and with it every sync that begins meanwhile."""
        self.wal.prune(self._needed)

    def close(self) -> None:
        """Makes what waits durable and closes the log."""
        self.wal.close()


def check_votes(folder: Path, log: WriteAheadLog, *, files: FileSystem = LOCAL_FILES) -> bool:
    """True when there is a log of votes in the folder; raises VotesMissing when there is none and was one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if any(name.endswith(".wal") for name in files.names(folder)):
            return True
    if log.sequences(VOTE_LOG):
        raise VotesMissing(folder)
    return False
