"""What a node says about itself (``GET /v1/status``), read with care: a node may be of another version, or lie."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from agentworld_core.consensus.verdict import Verdict
from agentworld_core.ids import is_hash, is_key_id

_WORD = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A committed head as one node reports it."""

    height: int = 0
    block_hash: str = ""
    state_root: str = ""
    time_ms: int = 0
    term: int = 0
    signers: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epoch:
    """A directory epoch as one node reports it."""

    epoch: int = 0
    hash: str = ""
    effective_height: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """The parts of a node's status that the operator uses; what is missing or malformed is empty."""

    node_id: str
    peer_id: str = ""
    genesis_hash: str = ""
    head: Head = Head()
    directory: Epoch = Epoch()
    pending: Epoch | None = None
    revoked_set_hash: str = ""
    revoked: tuple[str, ...] = ()
    active_key_id: str = ""
    available_key_ids: tuple[str, ...] = ()
    voting: bool = False
    writer: str = ""
    writer_term: int = 0
    sync_state: str = ""
    lag: int = 0
    evidence: tuple[str, ...] = ()
    """The content ids of the proofs that it says it holds."""
    progress: Verdict | None = None

    @property
    def in_sync(self) -> bool:
        """True when the node is at the head as far as it knows."""
        return self.sync_state == "in_sync"

    def fingerprint(self) -> tuple[object, ...]:
        """Returns what, when it changes, is worth a reconcile."""
        return (
            self.node_id,
            self.head.height,
            self.directory,
            self.pending,
            self.revoked,
            self.active_key_id,
            self.available_key_ids,
            self.voting,
            self.writer,
            self.writer_term,
            self.sync_state,
            self.evidence,
            # What changes while blocks are decided would be news all the time.
            self.progress if self.progress is not None and self.progress.stalled else None,
        )


def parse_status(data: object) -> NodeStatus:
    """Returns the status of a node from its JSON document."""
    document = _mapping(data)
    head = _mapping(document.get("head"))
    signing = _mapping(document.get("signing"))
    writer = _mapping(document.get("writer"))
    sync = _mapping(document.get("sync"))
    revocations = _mapping(document.get("revocations"))
    pending = document.get("pending_directory")
    return NodeStatus(
        node_id=_text(document.get("node_id")),
        peer_id=_text(document.get("peer_id")),
        genesis_hash=_hash(document.get("genesis_hash")),
        head=Head(
            height=_number(head.get("height")),
            block_hash=_hash(head.get("block_hash")),
            state_root=_hash(head.get("state_root")),
            time_ms=_number(head.get("time_ms")),
            term=_number(head.get("term")),
            signers=_number(head.get("signers")),
        ),
        directory=_epoch(document.get("directory")),
        pending=_epoch(pending) if isinstance(pending, Mapping) else None,
        revoked_set_hash=_hash(revocations.get("set_hash")),
        revoked=_key_ids(revocations.get("key_ids")),
        active_key_id=_key_id(signing.get("active_key_id")),
        available_key_ids=_key_ids(signing.get("available_key_ids")),
        voting=signing.get("voting") is True,
        writer=_text(writer.get("holder")),
        writer_term=_number(writer.get("term")),
        sync_state=_text(sync.get("state")),
        lag=_number(sync.get("lag")),
        progress=_progress(document.get("consensus")),
        evidence=_evidence(document.get("evidence")),
    )


def _evidence(value: object) -> tuple[str, ...]:
    hashes = [_hash(_mapping(item).get("hash")) for item in _items(value)]
    return tuple(sorted(item for item in hashes if item))


def _progress(value: object) -> Verdict | None:
    data = _mapping(value)
    state = _text(data.get("state"))
    if not _WORD.fullmatch(state):
        return None
    return Verdict(state=state, message=_text(data.get("message"), limit=1024), stalled=data.get("stalled") is True)


def _epoch(value: object) -> Epoch:
    data = _mapping(value)
    return Epoch(
        epoch=_number(data.get("epoch")),
        hash=_hash(data.get("hash")),
        effective_height=_number(data.get("effective_height")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> list[Any]:
    return value[:4096] if isinstance(value, list) else []


def _text(value: object, *, limit: int = 256) -> str:
    return value[:limit] if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


def _hash(value: object) -> str:
    return str(value) if is_hash(value) else ""


def _key_id(value: object) -> str:
    return str(value) if is_key_id(value) else ""


def _key_ids(value: object) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(_key_id(item) for item in _items(value) if is_key_id(item))))
