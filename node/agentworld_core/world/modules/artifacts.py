"""Artifacts: the code of modules, carried on the ledger in pieces, so that whoever has the state has the code.

Pieces come in order. With the last one the content id of all is checked; what does not match is thrown away again.
"""

from __future__ import annotations

from agentworld_core.hashing import content_id
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.modules.apply import ARTIFACT_DISCARDED, ARTIFACT_PUT, ARTIFACT_REMOVED, Payload
from agentworld_core.world.modules.records import (
    ARTIFACTS_KEY,
    ArtifactPiece,
    ArtifactRecord,
    ArtifactTotal,
    artifact_key,
    piece_key,
)
from agentworld_core.world.state import Draft, Reader, read

MAX_PIECE_BYTES = 48 * 1024
MAX_ARTIFACT_BYTES = 4 * 1024 * 1024
MAX_PIECES = 4096
MAX_TOTAL_BYTES = 64 * 1024 * 1024

Produced = list[tuple[str, Payload]]


def split_artifact(code: bytes, piece_bytes: int = MAX_PIECE_BYTES) -> list[Payload]:
    """Returns the payloads of the ``artifact.put`` actions that carry this code, in the order in which to send them.

    ``piece_bytes`` is for worlds whose batches are so small that a piece of ``MAX_PIECE_BYTES`` fits none.
    """
    pieces = [code[start : start + piece_bytes] for start in range(0, len(code), piece_bytes)]
    artifact = content_id(code)
    return [
        {"artifact": artifact, "index": index, "count": len(pieces), "data": data} for index, data in enumerate(pieces)
    ]


def read_artifact(reader: Reader, artifact: str) -> bytes | None:
    """Returns the code of an artifact, or None while not all of it has come."""
    record = read(reader, artifact_key(artifact), ArtifactRecord)
    if record is None or not record.complete:
        return None
    pieces = [read(reader, piece_key(artifact, index), ArtifactPiece) for index in range(record.count)]
    return b"".join([piece.data for piece in pieces if piece is not None])


def draft_artifact(draft: Draft, artifact: str) -> bytes | None:
    """Returns what ``read_artifact`` returns, with what the step in progress has put."""
    record = draft.record(artifact_key(artifact), ArtifactRecord)
    if record is None or not record.complete:
        return None
    return _pieces(draft, artifact, record.count)


def put_piece(draft: Draft, payload: Payload) -> Produced:
    """Returns the events of one piece; raises ActionRefused for one that is out of order or too much."""
    artifact, data = str(payload["artifact"]), payload["data"]
    index, count = payload["index"], payload["count"]
    assert isinstance(index, int)
    assert isinstance(count, int)
    assert isinstance(data, bytes)
    record = draft.record(artifact_key(artifact), ArtifactRecord)
    received = 0 if record is None else record.received
    if record is not None and (record.complete or index < received):
        raise ActionRefused("already_exists", f"piece {index} of this artifact has come before")
    if index != received or index >= count or (record is not None and count != record.count):
        expected = count if record is None else record.count
        raise ActionRefused("invalid_field", f"index: the next piece is {received} of {expected}")
    size = len(data) + (0 if record is None else record.size)
    if size > MAX_ARTIFACT_BYTES:
        raise ActionRefused("too_large", f"an artifact has at most {MAX_ARTIFACT_BYTES} bytes")
    total = draft.record(ARTIFACTS_KEY, ArtifactTotal) or ArtifactTotal()
    if total.size + len(data) > MAX_TOTAL_BYTES:
        raise ActionRefused("too_large", f"all artifacts together have at most {MAX_TOTAL_BYTES} bytes")
    if index + 1 == count and content_id(_pieces(draft, artifact, received) + data) != artifact:
        gone: Produced = [] if record is None else [(ARTIFACT_DISCARDED, {"artifact": artifact, "count": received})]
        raise ActionRefused("hash_mismatch", "artifact: the pieces do not hash to it and are discarded", instead=gone)
    return [(ARTIFACT_PUT, {"artifact": artifact, "index": index, "count": count, "data": data})]


def remove_artifact(draft: Draft, payload: Payload) -> Produced:
    """Returns the event that removes an artifact; raises ActionRefused while a registered module needs it."""
    artifact = str(payload["artifact"])
    record = draft.record(artifact_key(artifact), ArtifactRecord)
    if record is None:
        raise ActionRefused("not_found", "there is no such artifact")
    if record.uses:
        raise ActionRefused("invalid_state", f"{record.uses} registered versions need this artifact")
    return [(ARTIFACT_REMOVED, {"artifact": artifact, "count": record.received})]


def _pieces(draft: Draft, artifact: str, count: int) -> bytes:
    pieces = [draft.record(piece_key(artifact, index), ArtifactPiece) for index in range(count)]
    return b"".join([piece.data for piece in pieces if piece is not None])
