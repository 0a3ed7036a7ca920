"""The writer's Lease as the API server has it, and what is wrong with it after somebody has edited it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentworld_operator.resources import reasons

Writer = tuple[str, int]
"""Who holds the Lease, empty for nobody, and in which term; 0 before anybody ever did."""


def writer_of(lease: Mapping[str, Any] | None) -> Writer:
    """Returns who a Lease names, and its term."""
    spec = (lease or {}).get("spec") or {}
    transitions = spec.get("leaseTransitions")
    return str(spec.get("holderIdentity") or ""), 0 if transitions is None else int(transitions) + 1


def trouble_of(name: str, now: Writer, before: Writer, known: Iterable[str]) -> tuple[str, str] | None:
    """Returns reason and message of what only an edit by hand can have done to the Lease, None when nothing has.

    ``before`` is the writer that was last reported, ``known`` the validators that there are: one that has just left may
    hold the Lease for a moment.
    """
    (holder, term), (last, last_term) = now, before
    if holder and holder != last and holder not in known:
        return reasons.UNKNOWN_WRITER, (
            f"Lease {name} names {holder}, which is no validator of this world: somebody has edited it. A validator"
            " takes it once it has expired; until then no block is made, and nothing is lost"
        )
    if 0 < term < last_term:
        return reasons.LEASE_EDITED, (
            f"Lease {name} says term {term} after it was in term {last_term}: somebody has lowered leaseTransitions."
            " A lower term counts for nobody; a validator takes the lease in a term above all that were used"
        )
    return None
