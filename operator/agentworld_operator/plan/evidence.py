"""The rows of a status that hold the proofs of validators that voted twice, both signed messages included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentworld_core.codec import encode
from agentworld_core.consensus.evidence import accused, phase_name
from agentworld_core.messages import Equivocation
from agentworld_operator.plan.facts import WorldFacts
from agentworld_operator.resources.objects import to_base64
from agentworld_operator.resources.status import timestamp, without_empty

MAX_ROWS = 16


def evidence_rows(
    facts: WorldFacts, before: Sequence[Mapping[str, Any]], *, validator_id: str | None = None
) -> list[dict[str, Any]]:
    """Returns a row a proof, against one validator or, naming it, against all of the world.

    Rows that were there before stay as they are: a proof does not go when the node that told of it does. Those of an
    operator that wrote no proofs get theirs.
    """
    rows = {str(row.get("hash")): dict(row) for row in before}
    for content_hash, item in sorted(facts.evidence.items()):
        if content_hash in rows:
            rows[content_hash].setdefault("proof", _proof(item))
            continue
        if validator_id not in (None, accused(item)) or len(rows) >= MAX_ROWS:
            continue
        row = _row(content_hash, item, now_ms=facts.now_ms)
        rows[content_hash] = row if validator_id is not None else {"validator": accused(item), **row}
    return sorted(rows.values(), key=lambda row: (row.get("height", 0), row["hash"]))


def _row(content_hash: str, item: Equivocation, *, now_ms: int) -> dict[str, Any]:
    vote = item.first
    return without_empty(
        {
            "hash": content_hash,
            "height": vote.height,
            "term": vote.term,
            "attempt": vote.attempt,
            "phase": phase_name(item),
            "firstBlockHash": vote.block_hash,
            "secondBlockHash": item.second.block_hash,
            "observedTime": timestamp(now_ms),
            "proof": _proof(item),
        }
    )


def _proof(item: Equivocation) -> str:
    # Votes and proposals hold no lists and no texts without a bound: 707 bytes at most, whatever was signed.
    return to_base64(encode(item))
