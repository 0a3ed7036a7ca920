"""How a large proposal travels: a small offer is gossiped, and the batch is fetched in parts, each checked by itself.

The offer carries the signed proposal and block, and names the parts of the batch's encoding by size and content id. The
list of parts is signed by nobody: whoever sends an offer answers for it, and the batch that comes of it must be the
one that the block names.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from agentworld_core.codec import U64, Hash, Id, array_head, bytes_up_to, encode, items_up_to, message
from agentworld_core.errors import InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.messages import Proposal, ProposalBody, WorldBlock

LARGE_BYTES = 128 * 1024
"""Proposals whose encoding is larger than this are offered; up to it one message costs less than asking for it."""
PART_BYTES = 64 * 1024
MAX_PARTS = 16
OFFER_BYTES = 128 * 1024
"""Largest offer that is made or taken; a proposal with a larger block, of thousands of segments, is sent whole."""
_WHOLE = array_head(4) + bytes([ProposalBody.SCHEMA_NUMBER])  # type: ignore[attr-defined]


@message(33, "proposal_offer")
class ProposalOffer:
    """A proposal and its block; the batch has ``batch_bytes`` and is fetched in these parts, all full but the last."""

    proposal: Proposal
    block: WorldBlock
    batch_bytes: U64
    parts: Annotated[tuple[Hash, ...], items_up_to(MAX_PARTS)]


@message(34, "get_part")
class GetPart:
    """Asks for a part of a batch by its content id."""

    world_id: Id
    part: Hash


@message(35, "part")
class Part:
    """The answer to GetPart: bytes whose content id is the one that was asked for."""

    data: Annotated[bytes, bytes_up_to(PART_BYTES)]


@dataclasses.dataclass(frozen=True)
class Batch:
    """The encoding of a batch as it is served: its parts by content id, in order."""

    height: int
    proposer_id: str
    size: int
    ids: tuple[str, ...]
    parts: tuple[bytes, ...]


def split(body: ProposalBody) -> Batch:
    """Returns the parts of the batch of a proposal."""
    return batch_of(body.block, encode(body.batch))


def batch_of(block: WorldBlock, encoded: bytes) -> Batch:
    """Returns the parts of the encoded batch of a block."""
    parts = tuple(encoded[start : start + PART_BYTES] for start in range(0, len(encoded), PART_BYTES))
    return Batch(block.height, block.proposer_id, len(encoded), tuple(content_id(part) for part in parts), parts)


def check_sizes(offer: ProposalOffer) -> None:
    """Raises InvalidField unless the size fits the number of parts, which bounds what is ever kept for the offer."""
    expected = -(-offer.batch_bytes // PART_BYTES)
    if not offer.parts or len(offer.parts) != expected:
        says = f"{len(offer.parts)} parts of {PART_BYTES} bytes are another size"
        raise InvalidField(says, field="batch_bytes", value=offer.batch_bytes)


def size_of_part(offer: ProposalOffer, index: int) -> int:
    """Returns how many bytes the part has."""
    return min(PART_BYTES, offer.batch_bytes - index * PART_BYTES)


def whole(offer: ProposalOffer, batch: bytes) -> bytes:
    """Returns the encoding of the whole proposal, as its proposer would have sent it, without decoding the batch."""
    return _WHOLE + encode(offer.proposal) + encode(offer.block) + batch
