from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.codec import encode
from agentworld_core.errors import AgentWorldError, HashMismatch, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.segments import Journal, cut_events, event_root_of, read_events
from agentworld_core.messages import EventSegment, JournalSegmentRef, WorldEvent


def events(count: int, first: int = 1) -> list[WorldEvent]:
    return [WorldEvent(first + index, 7, "", "step.started", {"n": index}) for index in range(count)]


@pytest.mark.box("S2.3", "segments", "empty")
@pytest.mark.parametrize(
    ("count", "per_segment"),
    [*[(count, per) for count in (0, 1, 23, 24, 255, 256, 257) for per in (1, 24, 256)], (65_536, 65_535)],
)
def test_segments_are_the_encoding_of_their_message(count, per_segment):
    happened = events(count)
    cut = cut_events(happened, per_segment)
    assert cut.event_root == event_root_of(happened)
    assert len(cut.segments) == -(-count // per_segment)
    assert cut.blobs[cut.journal_ref] == encode(Journal(segments=cut.segments))
    for ref in cut.segments[:3]:
        group = tuple(happened[ref.from_event_id - 1 : ref.to_event_id])
        assert cut.blobs[ref.content_hash] == encode(EventSegment(events=group))
        assert len(cut.blobs[ref.content_hash]) == ref.size_bytes
    assert read_events(cut.segments, cut.blobs.__getitem__) == tuple(happened)


@pytest.mark.box("S3.3", "journal")
@pytest.mark.box("S2.3", "continuous")
def test_segments_of_consecutive_blocks_read_as_one_journal():
    one, other = cut_events(events(5), 2), cut_events(events(4, first=6), 3)
    blobs = {**one.blobs, **other.blobs}
    assert read_events([*one.segments, *other.segments], blobs.__getitem__) == tuple(
        events(5) + [dataclasses.replace(event, payload={"n": index}) for index, event in enumerate(events(4, first=6))]
    )
    with pytest.raises(StateMismatch):
        read_events([*other.segments, *one.segments], blobs.__getitem__)
    with pytest.raises(StateMismatch):
        read_events([*one.segments[:-1], *other.segments], blobs.__getitem__)


@pytest.mark.box("S3.3", "journal")
@pytest.mark.box("S2.3", "continuous")
@pytest.mark.parametrize(
    "changes", [{"from_event_id": 2}, {"to_event_id": 4}, {"size_bytes": 1}, {"content_hash": "0" * 64}]
)
def test_a_ref_that_does_not_fit_is_refused(changes):
    cut = cut_events(events(3), 3)
    blobs = {**cut.blobs, "0" * 64: b""}
    with pytest.raises(AgentWorldError):
        read_events([dataclasses.replace(cut.segments[0], **changes)], blobs.__getitem__)


@pytest.mark.box("S3.3", "journal")
def test_a_damaged_segment_and_an_empty_one_are_refused():
    cut = cut_events(events(3), 3)
    with pytest.raises(HashMismatch):
        read_events(cut.segments, lambda name: cut.blobs[name] + b"\0")
    data = encode(EventSegment(events=()))
    with pytest.raises(StateMismatch):
        read_events([JournalSegmentRef(1, 0, content_id(data), len(data))], {content_id(data): data}.__getitem__)
