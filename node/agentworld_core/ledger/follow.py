"""Which announced head to follow, if any (runtime spec section 14.2, D4, W33).

A head counts when its certificate does. A head from beyond the heights whose directory is known cannot be judged yet:
it is followed block by block, each with its own certificate, and so it is only ever a place to ask. The order of
targets is the order in which to try them, because the best one may turn out to be unreachable or wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.errors import AgentWorldError, StateMismatch, WrongWorld
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.errors import HeadConflict
from agentworld_core.membership.directory import key_in_directory
from agentworld_core.messages import Directory, WorldHeadAnnounce
from agentworld_core.signing import verify


class Verdict(Enum):
    """What to do about a list of heads."""

    APPLY = "apply"
    STALE = "ignore_stale"
    DUPLICATE = "ignore_duplicate"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """The verdict, the heads to try in order (none unless it is APPLY), and the refused heads with the reason."""

    verdict: Verdict
    targets: tuple[WorldHeadAnnounce, ...] = ()
    refused: tuple[tuple[WorldHeadAnnounce, AgentWorldError], ...] = ()


def check_head(head: WorldHeadAnnounce, directory: Directory) -> None:
    """Raises a typed error unless a member signed the head and a quorum of the directory certified its block.

    ``directory`` is the one in force at the head's height.
    """
    certificate = head.certificate
    if head.world_id != directory.world_id:
        raise WrongWorld("is another world", field="world_id", value=head.world_id)
    for field, stated, expected in (
        ("directory_epoch", head.directory_epoch, directory.epoch),
        ("certificate.world_id", certificate.world_id, head.world_id),
        ("certificate.height", certificate.height, head.height),
        ("certificate.block_hash", certificate.block_hash, head.block_hash),
    ):
        if stated != expected:
            raise StateMismatch(f"must be {expected}", field=field, value=stated)
    if head.term > certificate.term:
        # That of the block, which may have been decided in a later one only.
        raise StateMismatch(f"must be at most {certificate.term}", field="term", value=head.term)
    check_certificate(certificate, directory)
    verify(head, key_in_directory(directory, head.announcer_id, head.key_id).public_key)


def select_head(chain: ChainState, candidates: Sequence[WorldHeadAnnounce]) -> HeadChoice:
    """Returns what to do about announced heads; best first by height, then certified before not yet judged, time, hash.

    Heads of other worlds and heads with a wrong certificate or signature are refused. Raises HeadConflict, with the
    evidence, when two blocks of one height are certified, or another one than the chain's head is at its height.
    """
    certified: list[WorldHeadAnnounce] = []
    unjudged: list[WorldHeadAnnounce] = []
    refused: list[tuple[WorldHeadAnnounce, AgentWorldError]] = []
    for head in candidates:
        if head.world_id != chain.world_id:
            refused.append((head, WrongWorld("is another world", field="world_id", value=head.world_id)))
        elif head.height > chain.horizon:
            unjudged.append(head)
        elif head.height < 1:
            refused.append((head, StateMismatch("heights begin with 1", field="height", value=head.height)))
        else:
            try:
                check_head(head, chain.directory_at(head.height))
            except AgentWorldError as error:
                refused.append((head, error))
            else:
                certified.append(head)
    _check_conflicts(chain, certified)
    ahead = _distinct(
        [head for head in certified if head.height > chain.height], [head for head in unjudged if head.height > 0]
    )
    if ahead:
        verdict = Verdict.APPLY
    elif any(head.height == chain.height for head in certified):
        verdict = Verdict.DUPLICATE
    else:
        verdict = Verdict.STALE if certified else Verdict.NOTHING
    return HeadChoice(verdict=verdict, targets=ahead, refused=tuple(refused))


def _check_conflicts(chain: ChainState, certified: Sequence[WorldHeadAnnounce]) -> None:
    first_at: dict[int, WorldHeadAnnounce] = {}
    for head in certified:
        if head.height == chain.height and head.block_hash != chain.block_hash:
            raise HeadConflict(head, first=None, known_hash=chain.block_hash)
        other = first_at.setdefault(head.height, head)
        if other.block_hash != head.block_hash:
            raise HeadConflict(head, first=other, known_hash=other.block_hash)


def _distinct(
    certified: Sequence[WorldHeadAnnounce], unjudged: Sequence[WorldHeadAnnounce]
) -> tuple[WorldHeadAnnounce, ...]:
    """Returns one head for each block hash, best first."""
    ranked = [(head.height, 1, head.timestamp_ms, head.block_hash, head) for head in certified]
    ranked += [(head.height, 0, head.timestamp_ms, head.block_hash, head) for head in unjudged]
    ranked.sort(key=lambda item: item[:4], reverse=True)
    best: dict[str, WorldHeadAnnounce] = {}
    for *_, head in ranked:
        best.setdefault(head.block_hash, head)
    return tuple(best.values())
