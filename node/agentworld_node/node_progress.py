"""Watches whether the world of a node moves: ``GET /v1/consensus``, and the verdict in the status document."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentworld_core.consensus.verdict import Situation, Verdict, verdict
from agentworld_core.consensus.view import HeightView
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote

if TYPE_CHECKING:
    from agentworld_node.node import Node

LOOK_SECONDS = 1.0


class Progress:
    """Remembers since when there has been something to decide, and when the last block was committed."""

    def __init__(self, node: Node):
        self._node = node
        self._committed_at: int | None = None
        self._active_since: int | None = None
        node.ledger.on_commit(lambda _bundle: self._note_commit())

    async def run(self) -> None:
        """Looks once a second until it is cancelled."""
        while True:
            self._look(self._node.engine.view())
            await asyncio.sleep(LOOK_SECONDS)

    def verdict(self) -> Verdict:
        """Returns why the world moves or does not move, as far as this node can tell."""
        return verdict(self.situation())

    def situation(self) -> Situation:
        """Returns all that the verdict is made of."""
        node, view = self._node, self._node.engine.view()
        self._look(view)
        chain = node.ledger.chain
        peers = node.network.connected()
        members = chain.directory_at(chain.next_height).members
        connected = [
            member.member_id for member in members if member.peer_id in peers or member.member_id == node.config.node_id
        ]
        return Situation(
            view=view,
            connected=tuple(connected),
            lease=None if node.lease is None else node.lease.sight(),
            leaseless=node.ledger.genesis.parameters.leaseless,
            waited_ms=self._waited_ms(),
            failure=node.failure(),
            storage_full=node.ledger.full,
            behind=node.sync.behind(),
        )

    def document(self) -> dict[str, Any]:
        """Returns the answer to ``GET /v1/consensus``; times are milliseconds, None for what is not known."""
        node, situation = self._node, self.situation()
        found, view = verdict(situation), situation.view
        document: dict[str, Any] = {
            "world_id": node.config.world_id,
            "node_id": node.config.node_id,
            "votes": node.engine.is_validator,
            "verdict": verdict_document(found) | {"waited_ms": situation.waited_ms},
            "head": {"height": node.ledger.height, "since_ms": self._since(self._committed_at)},
            "pool": {"actions": len(node.mempool)},
            "lease": None,
        }
        if situation.lease is not None:
            lease = situation.lease
            document["lease"] = {
                "holder": lease.holder,
                "term": lease.term,
                "expires_in_ms": lease.expires_in_ms,
                "unchanged_ms": lease.unchanged_ms,
                "store_answers": lease.answers,
            }
        return document | _view_document(view, situation.connected)

    def _look(self, view: HeightView | None) -> None:
        if view is None or not view.active:
            self._active_since = None
        elif self._active_since is None:
            self._active_since = _now_ms()

    def _note_commit(self) -> None:
        self._committed_at = _now_ms()

    def _waited_ms(self) -> int:
        if self._active_since is None:
            return 0
        return _now_ms() - max(self._active_since, self._committed_at or 0)

    def _since(self, moment: int | None) -> int | None:
        return None if moment is None else _now_ms() - moment


def verdict_document(found: Verdict) -> dict[str, Any]:
    """Returns the JSON form of a verdict."""
    return {"state": found.state, "message": found.message, "stalled": found.stalled}


def _view_document(view: HeightView | None, connected: tuple[str, ...]) -> dict[str, Any]:
    if view is None:
        return {"height": None, "validators": []}
    return {
        "height": view.height,
        "epoch": view.epoch,
        "round": _round_document(view.round),
        "step": view.step or None,
        "in_turn": view.in_turn,
        "proposer": view.proposer,
        "may_propose": view.may_propose,
        "proposal": view.proposal,
        "quorum": {
            "needed": view.quorum,
            "total": view.total,
            "prevotes": view.weight(PREVOTE),
            "precommits": view.weight(PRECOMMIT),
        },
        "missing": {"prevotes": view.missing(PREVOTE), "precommits": view.missing(PRECOMMIT)},
        "locked": _place_document(view.locked),
        "valid": _place_document(view.valid),
        "validators": [
            {
                "validator_id": ballot.validator_id,
                "weight": ballot.weight,
                "in_touch": ballot.validator_id in connected,
                "prevote": _vote_document(ballot.prevote),
                "precommit": _vote_document(ballot.precommit),
            }
            for ballot in view.ballots
        ],
    }


def _round_document(round_: Round) -> dict[str, int]:
    return {"term": round_.term, "attempt": round_.attempt}


def _place_document(place: tuple[Round, str] | None) -> dict[str, Any] | None:
    return None if place is None else {**_round_document(place[0]), "block_hash": place[1]}


def _vote_document(vote: Vote | None) -> dict[str, Any] | None:
    """Returns what a vote is for: None for no vote yet, a null block hash for a vote for none."""
    return None if vote is None else {"block_hash": vote.block_hash}


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)
