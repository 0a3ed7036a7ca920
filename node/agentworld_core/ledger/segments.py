"""The journal of a block: its events cut into segments that are stored by content id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentworld_core.codec import array_head, decode, encode, message
from agentworld_core.errors import HashMismatch, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.messages import EventSegment, JournalSegmentRef, Receipt, ReceiptList, WorldEvent

MAX_SEGMENTS = 4096
"""As many as a block can name."""
SEGMENT_LIMIT = 256 * 1024 * 1024


@message(44, "journal")
class Journal:
    """The segments of one block in order; its content id is the block's ``journal_ref``."""

    segments: tuple[JournalSegmentRef, ...]


@dataclass(frozen=True, kw_only=True)
class CutJournal:
    """A block's events as they are stored: segment refs, the id of their list, the id of all events, and the blobs."""

    segments: tuple[JournalSegmentRef, ...]
    journal_ref: str
    event_root: str
    blobs: dict[str, bytes]


def cut_events(events: Sequence[WorldEvent], per_segment: int) -> CutJournal:
    """Returns the events of a block in segments of ``per_segment``, the last one shorter.

    Where modules made so many that a block could not name the segments, these are as long as it takes.
    """
    per_segment = max(per_segment, -(-len(events) // MAX_SEGMENTS))
    encoded = [encode(event) for event in events]
    refs: list[JournalSegmentRef] = []
    blobs: dict[str, bytes] = {}
    for start in range(0, len(events), per_segment):
        group = events[start : start + per_segment]
        data = _segment_bytes(encoded[start : start + per_segment])
        ref = JournalSegmentRef(group[0].event_id, group[-1].event_id, content_id(data), len(data))
        refs.append(ref)
        blobs[ref.content_hash] = data
    index = encode(Journal(segments=tuple(refs)))
    journal_ref = content_id(index)
    blobs[journal_ref] = index
    # One segment holds all events, and its id is theirs.
    event_root = refs[0].content_hash if len(refs) == 1 else content_id(_segment_bytes(encoded))
    return CutJournal(segments=tuple(refs), journal_ref=journal_ref, event_root=event_root, blobs=blobs)


def event_root_of(events: Sequence[WorldEvent]) -> str:
    """Returns the content id of the events of a block, however they are cut into segments."""
    return content_id(encode(EventSegment(events=tuple(events))))


def receipts_blob(receipts: Sequence[Receipt]) -> tuple[str, bytes]:
    """Returns the receipts root of a block and the blob that it is the content id of."""
    data = encode(ReceiptList(receipts=tuple(receipts)))
    return content_id(data), data


def read_events(segments: Sequence[JournalSegmentRef], fetch: Callable[[str], bytes]) -> tuple[WorldEvent, ...]:
    """Returns the events of consecutive segments, of one block or of many, each segment fetched by its content id.

    Raises HashMismatch for content of another id or size, StateMismatch where event ids are not what the refs say or
    leave a gap, MalformedEncoding for anything that is no segment.
    """
    events: list[WorldEvent] = []
    for ref in segments:
        data = fetch(ref.content_hash)
        if content_id(data) != ref.content_hash or len(data) != ref.size_bytes:
            raise HashMismatch("a journal segment is not what its ref says", field="segment", value=ref.content_hash)
        found = decode(EventSegment, data, limit=SEGMENT_LIMIT).events
        expected = events[-1].event_id + 1 if events else ref.from_event_id
        ids = [event.event_id for event in found]
        if not ids or ids != list(range(expected, expected + len(ids))) or ids[-1] != ref.to_event_id:
            raise StateMismatch(
                "a journal segment does not hold the events of its ref", field="segment", value=expected
            )
        if ids[0] != ref.from_event_id:
            raise StateMismatch("a journal segment begins elsewhere", field="from_event_id", value=ref.from_event_id)
        events.extend(found)
    return tuple(events)


def _segment_bytes(encoded: Sequence[bytes]) -> bytes:
    """Returns ``encode(EventSegment(...))`` of events that are encoded already, so that each is encoded only once."""
    return b"\x82\x10" + array_head(len(encoded)) + b"".join(encoded)
