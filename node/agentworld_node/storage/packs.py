"""Small blobs in packs: one process appends to the newest pack, any number of others read all of them.

What a later pack says of a blob holds, and within a pack what a later record says. A pack is closed when it has reached
its size and is durable before the next one is begun; so only the newest one can have lost anything in a crash. Nothing
is ever changed in place: what is gone is said so behind it, and ``pack_rewrite`` frees the room.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agentworld_node.storage.blob_store import BlobEntry
from agentworld_node.storage.errors import FolderLocked, is_no_room
from agentworld_node.storage.files import Closing, FileSystem, make_folders
from agentworld_node.storage.pack_file import INDEX_SUFFIX, PACK_SUFFIX, TEMPORARY_SUFFIX, Pack
from agentworld_node.storage.pack_index import Place
from agentworld_node.storage.unsynced import Lost

PACK_BYTES = 128 * 2**20
log = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9]{10})\.pack")
_LOCK = "lock"


class PackFolder:
    """The packs of one folder, for many threads. Raises OSError, and FolderLocked when another process appends.

    ``on_lost`` hears of each blob that is gone because a sync of it has failed.
    """

    def __init__(self, folder: Path, *, files: FileSystem, pack_bytes: int, on_lost: Callable[[Lost], None]):
        self.folder = folder
        self.files = files
        self.packs: tuple[Pack, ...] = ()  # by number; replaced as a whole, so that readers need no lock
        self.lock = threading.RLock()  # held by whoever changes anything
        self._pack_bytes = pack_bytes
        self._on_lost = on_lost
        self._syncing = threading.Lock()
        self._held: Closing | None = None
        self._active: Pack | None = None
        self._is_loaded = False
        self._has_failed = False
        self._seen: dict[int, int | None] = {}  # the packs and their sizes when they were read last
        self._gone: set[bytes] = set()  # deleted while there was no room to say so

    def __del__(self) -> None:
        self._release()

    @property
    def is_owner(self) -> bool:
        """True when this process is the one that appends."""
        return self._held is not None

    def appends_to(self, pack: Pack) -> bool:
        """True for the pack that is appended to."""
        return pack is self._active

    def find(self, key: bytes) -> tuple[Pack, Place] | None:
        """Returns where a blob lies; None when there is none, as far as the packs have been read."""
        if key in self._gone:
            return None
        if not self._is_loaded:
            self.refresh()
        for pack in reversed(self.packs):
            place = pack.find(key)
            if place is not None:
                return None if place.is_gone else (pack, place)
        return None

    def find_anew(self, key: bytes) -> tuple[Pack, Place] | None:
        """Does what ``find`` does, and looks again at the disk where somebody else may have appended."""
        found = self.find(key)
        if found is None and not self.is_owner and self.refresh():
            found = self.find(key)
        return found

    def read(self, found: tuple[Pack, Place], *, key: bytes | None = None) -> bytes | None:
        """Returns the bytes there, right or wrong; None where the disk cannot read them.

        With the ``key`` also None when the header of the record is damaged, without which its index cannot be rebuilt.
        """
        pack, place = found
        try:
            if key is None:
                return pack.read_at(place.offset, place.size)
            return pack.read_record(key, place)
        except OSError as error:
            if error.errno == errno.EIO:
                return None
            raise

    def reload(self) -> bool:
        """Reads everything again; False, and nothing is read, when nothing has changed on the disk since."""
        with self.lock:
            return self._sizes() != self._seen and self.refresh(anew=True)

    def _sizes(self) -> dict[int, int | None]:
        return {number: self.files.size(self._path(number)) for number in self._numbers()}

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:010d}{PACK_SUFFIX}"

    def refresh(self, *, anew: bool = False) -> bool:
        """Reads what was appended since, or ``anew`` everything; False when nothing has changed."""
        with self.lock:
            self._seen = self._sizes()
            known = {} if anew else {pack.number: pack for pack in self.packs}
            numbers = list(self._seen)
            changed = anew or numbers != list(known)
            packs = []
            for number in numbers:
                pack = known.get(number)
                if pack is None:
                    pack = Pack(self._path(number), number, files=self.files)
                    try:
                        if pack.load():
                            packs.append(pack)
                    except FileNotFoundError:
                        continue  # it has been rewritten meanwhile
                else:
                    packs.append(pack)
                    if pack is self.packs[-1]:
                        changed = bool(pack.advance()) or changed
            self.packs = tuple(packs)
            self._is_loaded = True
            return changed

    def _numbers(self) -> list[int]:
        try:
            names = self.files.names(self.folder)
        except FileNotFoundError:
            return []
        return [int(match.group(1)) for name in names if (match := _NAME.fullmatch(name))]

    def own(self) -> None:
        """Becomes the process that appends; raises FolderLocked when another one is."""
        with self.lock:
            if self._held is not None:
                return
            make_folders(self.files, self.folder)
            try:
                self._held = self.files.lock(self.folder / _LOCK)
            except BlockingIOError as error:
                raise FolderLocked(
                    "another process writes these packs", field="path", value=self.folder, remedy="stop it first"
                ) from error
            try:
                self.refresh(anew=True)
                self._clean()
                for pack in self.packs[:-1]:
                    pack.synced = pack.size
                    pack.write_index()
                if self.packs and self.packs[-1].size < self._pack_bytes:
                    self._active = self.packs[-1]
                    self._active.resume()
                elif self.packs:
                    self._finish(self.packs[-1])
            except BaseException:
                self._release()
                raise

    def _clean(self) -> None:
        """Removes what interrupted writes have left."""
        for name in self.files.names(self.folder):
            path = self.folder / name
            orphan = name.endswith(INDEX_SUFFIX) and self.files.size(path.with_suffix(PACK_SUFFIX)) is None
            if orphan or name.endswith(TEMPORARY_SUFFIX):
                self.files.remove(path)

    def _finish(self, pack: Pack) -> None:
        """Makes a pack of an earlier life that takes no more durable."""
        pack.resume()
        self._make_durable(pack, pack.size)
        pack.close()
        pack.write_index()

    def append(self, key: bytes, data: bytes) -> bool:
        """Stores a blob behind all others, durable after the next ``sync`` of it; False when somebody just has."""
        with self.lock:
            pack = self._room_for_one()
            place = pack.find(key)
            if place is not None and not place.is_gone:
                return False
            pack.append_blob(key, data, stamp=time.time_ns())
            self._gone.discard(key)
            return True

    def copy(self, key: bytes, data: bytes, *, stamp: int) -> None:
        """Stores a blob behind all others that an older pack holds, too."""
        with self.lock:
            self._room_for_one().append_blob(key, data, stamp=stamp)

    def say_gone(self, key: bytes, found: tuple[Pack, Place]) -> None:
        """Says behind everything that a blob is gone."""
        with self.lock:
            pack, place = found
            self._room_for_one().append_gone(key, number=pack.number, size=place.size)

    def delete(self, key: bytes) -> int | None:
        """Forgets a blob and returns its size; None when there was none. A crash may bring it back."""
        if self.find_anew(key) is None:
            return None
        self.own()
        with self.lock:
            found = self.find(key)
            if found is None:
                return None
            try:
                self.say_gone(key, found)
            except OSError as error:
                if not is_no_room(error):
                    raise
                # Removing must work where there is no room: the pack may go as a whole.
                self._gone.add(key)
                found[0].note_useless(found[1].size)
            return found[1].size

    def _room_for_one(self) -> Pack:
        self.own()
        if self._has_failed:
            raise OSError(errno.EIO, "what was written last may be lost: restart", str(self.folder))
        if self._active is not None and self._active.size >= self._pack_bytes:
            self.seal()
        if self._active is None:
            number = max((0, *self._numbers())) + 1
            self._active = Pack.create(self._path(number), number, files=self.files)
            self.packs = (*self.packs, self._active)
        return self._active

    def seal(self) -> None:
        """Closes the pack that is appended to, durably; the next blob begins another one."""
        with self.lock:
            pack = self._active
            if pack is not None:
                self._make_durable(pack, pack.size)
                self._active = None
                pack.close()
                pack.write_index()

    def sync(self, found: Iterable[tuple[Pack, Place]]) -> None:
        """Returns when these blobs survive a crash; callers at the same time share a sync of the disk.

        When that fails, nobody can know what of the pack is on the disk, and what was not durable before is forgotten.
        """
        ends: dict[Pack, int] = {}
        for pack, place in found:
            ends[pack] = max(ends.get(pack, 0), place.offset + place.size)
        for pack, end in ends.items():
            self._make_durable(pack, end)

    def _make_durable(self, pack: Pack, end: int) -> None:
        try:
            with self._syncing:
                if pack.synced < end:
                    pack.sync(self.folder)
        except OSError:
            # Whoever waited for this sync must not repeat it, as it might then wrongly succeed.
            with self.lock:
                if self._active is pack:
                    self._active = None
                # While it holds what may be lost it must stay the newest pack, which the next start looks at.
                self._has_failed = True
                for lost in pack.forget_unsynced():
                    self._on_lost(lost)
                self._has_failed = False
            raise

    def entries(self) -> Iterator[BlobEntry]:
        """Yields every blob in order."""
        if not self.is_owner:
            self.refresh()
        said_of_all = heapq.merge(*map(_said, self.packs))
        for key, said in itertools.groupby(said_of_all, key=lambda item: item[0]):
            _, _, place = next(said)
            if not place.is_gone and key not in self._gone:
                yield BlobEntry(key.hex(), place.size, place.stamp)

    def remove(self, pack: Pack) -> bool:
        """Removes a pack of which nothing is needed any more; False when the packs have been closed."""
        with self.lock:
            if not self.is_owner:
                return False
            self.packs = tuple(item for item in self.packs if item is not pack)
            self.files.remove(pack.path)
            if self.files.size(pack.index_path) is not None:
                self.files.remove(pack.index_path)
            return True

    def close(self) -> None:
        """Writes the index of the newest pack and lets another process append; closing twice is allowed.

        Nothing was promised of what was not synced, so it raises nothing.
        """
        with self.lock:
            if self._held is None:
                return
            try:
                self.seal()
            except OSError as error:
                log.warning("what was written last to %s may be lost: %s", self.folder, error)
            finally:
                self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        for pack in self.packs:
            pack.close()
        self._active = None
        if held is not None:
            held.close()


def _said(pack: Pack) -> Iterator[tuple[bytes, int, Place]]:
    """Yields what a pack says of blobs, so that among several packs the newest one comes first."""
    yield from ((key, -pack.number, place) for key, place in pack.items())
