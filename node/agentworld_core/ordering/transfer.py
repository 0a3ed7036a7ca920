"""The wish of governance that another validator writes from now on, and when it may be carried out.

The wish names the term in which the lease is, so it is spent by the hand-over that it causes, and its time of expiry
ends it where it caused none. Whether it is carried out concerns progress alone: any member may write, at any time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from agentworld_core.codec import I64, U64, Id, items_up_to, message
from agentworld_core.errors import InvalidField, NotFound, StateMismatch, WrongWorld
from agentworld_core.membership.directory import check_threshold, find_member
from agentworld_core.messages import Directory, KeySignature

LONGEST_MS = 10 * 60_000
"""How far ahead the expiry of a wish may be."""


@message(72, "writer_transfer")
class WriterTransfer:
    """Governance wants the lease of this term to go to a validator; void from the expiry on."""

    world_id: Id
    target_id: Id
    term: U64
    expires_at_ms: I64
    signatures: Annotated[tuple[KeySignature, ...], items_up_to(64)]


@message(73, "writer")
class Writer:
    """Who holds the lease, as one node knows it, and in which term."""

    holder_id: Id | None
    term: U64


@message(74, "readiness")
class Readiness:
    """Whether a validator could write now: null, or why not; and how far its ledger goes."""

    reason: str | None
    height: U64


def check_transfer(
    wish: WriterTransfer, directory: Directory, *, revoked_key_ids: Collection[str] = (), now_ms: int
) -> None:
    """Raises a typed error unless governance signed the wish, it is still valid, and its target is a member."""
    if wish.world_id != directory.world_id:
        raise WrongWorld("is another world", field="world_id", value=wish.world_id)
    check_threshold(wish, directory, revoked_key_ids=revoked_key_ids)
    if not now_ms < wish.expires_at_ms <= now_ms + LONGEST_MS:
        remedy = "sign it again, and see that the clocks are right"
        raise InvalidField("is over, or too far ahead", field="expires_at_ms", value=wish.expires_at_ms, remedy=remedy)
    if find_member(directory, wish.target_id) is None:
        known = ", ".join(member.member_id for member in directory.members[:8])
        raise NotFound("is not a validator of this world", field="target_id", value=wish.target_id, remedy=known)


def check_term(wish: WriterTransfer, writer: Writer) -> None:
    """Raises StateMismatch unless the lease is held, in the term that the wish names."""
    if writer.holder_id is None:
        raise StateMismatch("nobody holds the lease now", field="term", value=wish.term, remedy="wait for a writer")
    if wish.term != writer.term:
        says = f"the lease is in term {writer.term} by now, held by {writer.holder_id}"
        raise StateMismatch(says, field="term", value=wish.term, remedy="sign it again if that is still wanted")
