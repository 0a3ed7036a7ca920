"""Proofs that a validator voted twice, as they are handed around, and who says whose keys the votes are signed with."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from agentworld_client.source import WorldSource
from agentworld_core.codec import decode, schema_number
from agentworld_core.consensus.evidence import accused, check_equivocation
from agentworld_core.errors import AgentWorldError, InvalidField, Unauthorized
from agentworld_core.ledger.evidence_file import EvidenceFile
from agentworld_core.membership.builder import key_entry
from agentworld_core.messages import Directory, Equivocation, KeyEntry, Member

FILE_LIMIT = 64 * 1024 * 1024

_KINDS: dict[int, type[Equivocation | EvidenceFile]] = {
    kind.SCHEMA_NUMBER: kind  # type: ignore[union-attr]
    for kind in (Equivocation, EvidenceFile)
}
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_REMEDY = "give what a status holds in evidence[].proof, or a file of `agentworld evidence show --save`"


def read_proof(path: Path) -> Equivocation | EvidenceFile:
    """Returns what a file, or with ``-`` standard input, holds as bytes or as their base64; InvalidField otherwise."""
    data = _read(path)
    if not data.strip():
        raise InvalidField("is empty", field="FILE", value=path, remedy=_REMEDY)
    try:
        # The first byte of an encoded message is none of a text.
        encoded = base64.b64decode(b"".join(data.split()), validate=True) if data.isascii() else data
    except binascii.Error as error:
        raise InvalidField(f"holds no proof, as base64: {error}", field="FILE", value=path, remedy=_REMEDY) from error
    kind = _KINDS.get(schema_number(encoded) or 0)
    if kind is None:
        raise InvalidField("holds no proof", field="FILE", value=path, remedy=_REMEDY)
    try:
        return decode(kind, encoded, limit=FILE_LIMIT)
    except AgentWorldError as error:
        raise InvalidField(f"holds no proof: {error}", field="FILE", value=path, remedy=_REMEDY) from error


async def with_directories(proof: Equivocation, source: WorldSource) -> EvidenceFile:
    """Returns the proof with all that the source has to judge it by; what the source says is not checked here."""
    genesis = await source.genesis()
    epochs = range(genesis.directory.epoch + 1, proof.first.directory_epoch + 1)
    directories = [await source.directory(epoch) for epoch in epochs]
    return EvidenceFile(genesis=genesis, directories=tuple(directories), evidence=proof)


def keys_of(texts: Sequence[str]) -> list[KeyEntry]:
    """Returns the public keys that were given as 64 hex digits each."""
    for text in texts:
        if not _PUBLIC_KEY.fullmatch(text):
            remedy = "give 64 hex digits, as status.publicKey of a MembershipKey has them"
            raise InvalidField("is no public key", field="--public-key", value=text, remedy=remedy)
    return [key_entry(bytes.fromhex(text), 1) for text in texts]


def check_under_keys(proof: Equivocation, keys: Sequence[KeyEntry]) -> None:
    """Raises a typed error unless these keys signed both messages, and the two contradict each other."""
    given = {key.key_id for key in keys}
    for signed in (proof.first, proof.second):
        if signed.key_id not in given:
            says = f"is the key of a {signed.SCHEMA_NAME}, and not one that was given"  # type: ignore[union-attr]
            remedy = "compare it with status.keys[].keyId of the MembershipKey"
            raise Unauthorized(says, field="key_id", value=signed.key_id, remedy=remedy)
    check_equivocation(proof, _directory_of(proof, keys))


def _directory_of(proof: Equivocation, keys: Sequence[KeyEntry]) -> Directory:
    """Returns a directory that nobody signed and that knows nothing but these keys; good for this one check."""
    member = Member(member_id=accused(proof), peer_id="", keys=tuple(keys), weight=1, roles=())
    return Directory(
        world_id=proof.first.world_id,
        epoch=proof.first.directory_epoch,
        previous_hash="",
        members=(member,),
        fault_model="Byzantine",
        governance=(),
        governance_threshold=0,
        revoked=(),
        activation_delay=0,
        issued_at_ms=0,
        expires_at_ms=None,
        reason=None,
        signatures=(),
    )


def _read(path: Path) -> bytes:
    # Text takes a third more than the bytes that it stands for; what is cut off here was too large anyway.
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(2 * FILE_LIMIT)
        with path.open("rb") as file:
            return file.read(2 * FILE_LIMIT)
    except OSError as error:
        raise InvalidField(f"cannot be read: {error}", field="FILE", value=path) from error
