"""Frees the room of what is gone from packs: what a pack still holds is written again behind everything, then it goes.

A pack is removed when copies of all that is needed of it are durable, so a crash at any moment leaves a blob once or
twice, and never not at all. Copies are verified; what is damaged is not copied but set aside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentworld_node.storage.pack_file import HEADER, Pack
from agentworld_node.storage.pack_index import Place
from agentworld_node.storage.packs import PackFolder

DEAD_PART = 0.5


@dataclass(frozen=True, slots=True)
class Rewritten:
    """How many packs were rewritten, and how many bytes the disk has got back by that."""

    packs: int = 0
    bytes: int = 0


def rewrite(
    folder: PackFolder,
    *,
    dead_part: float = DEAD_PART,
    is_right: Callable[[bytes, bytes | None], bool],
    set_aside: Callable[[bytes], None],
) -> Rewritten:
    """Rewrites the packs of which this part or more is dead, the deadest first; all but the one that is appended to.

    ``is_right`` tells whether bytes are those of a content id, ``set_aside`` takes a blob that is damaged. Ends early
    when the packs are closed meanwhile. Raises OSError, and FolderLocked when another process appends.
    """
    folder.own()
    dead: dict[int, int] = {}
    for pack in folder.packs:
        for number, size in pack.dead.items():
            dead[number] = dead.get(number, 0) + size
    candidates = [pack for pack in folder.packs if not folder.appends_to(pack) and pack.size > 0]
    candidates.sort(key=lambda pack: dead.get(pack.number, 0) / pack.size, reverse=True)
    packs = freed = 0
    for pack in candidates:
        if dead.get(pack.number, 0) < dead_part * pack.size:
            break
        kept = _kept(folder, pack)
        copied = sum(HEADER + max(0, place.size) for place in kept.values())
        if copied > (1 - dead_part) * pack.size:
            continue
        if not _copy(folder, pack, kept, is_right=is_right, set_aside=set_aside) or not folder.remove(pack):
            break
        packs += 1
        freed += pack.size - copied
    if packs:
        folder.files.sync_folder(folder.folder)
    return Rewritten(packs, freed)


def _kept(folder: PackFolder, pack: Pack) -> dict[bytes, Place]:
    """Returns what a pack says that nobody else says: blobs that are there, and that older copies are gone."""
    kept = {}
    with folder.lock:
        for key, place in pack.items():
            found = folder.find(key)
            if place.is_gone:
                if found is None and any(other.find(key) for other in folder.packs if other is not pack):
                    kept[key] = place
            elif found == (pack, place):
                kept[key] = place
    return kept


def _copy(
    folder: PackFolder,
    pack: Pack,
    kept: dict[bytes, Place],
    *,
    is_right: Callable[[bytes, bytes | None], bool],
    set_aside: Callable[[bytes], None],
) -> bool:
    """Writes what is kept of a pack again, durably; False when the packs were closed before all of it was."""
    for key, place in kept.items():
        data = None if place.is_gone else folder.read((pack, place), key=key)
        with folder.lock:
            if not folder.is_owner:
                return False
            found = folder.find(key)
            if place.is_gone:
                if found is None:
                    folder.say_gone(key, (pack, Place(0, 0, 0)))
            elif found == (pack, place):
                if data is not None and is_right(key, data):
                    folder.copy(key, data, stamp=place.stamp)
                else:
                    set_aside(key)
    with folder.lock:
        found_now = [found for key in kept if (found := folder.find(key)) is not None]
    folder.sync(found_now)
    return True
