"""Moves the batches of large proposals between validators: serves their parts, and fetches what others have offered.

What to ask for and whom is decided by ``Fetching``; this shell has the requests, each with a deadline, and counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.fetching import Arrived, Ask, Fetching
from agentworld_core.consensus.parts import (
    LARGE_BYTES,
    MAX_PARTS,
    OFFER_BYTES,
    PART_BYTES,
    GetPart,
    Part,
    ProposalOffer,
    split,
)
from agentworld_core.errors import AgentWorldError, NotFound, WrongWorld
from agentworld_core.messages import ProposalBody
from agentworld_core.names import protocol
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.roles.spawning import Spawner

log = logging.getLogger(__name__)

GET_PART = protocol("get_part")
QUESTION_BYTES = 256
ANSWER_BYTES = PART_BYTES + 16
PART_SECONDS = 3.0


class PartExchange:
    """Fetches the batches that members offer, hands on whole proposals, and serves the parts of what it has."""

    def __init__(
        self,
        *,
        world_id: str,
        network: Network,
        metrics: Metrics,
        admits: Callable[[str], bool],
        take: Callable[[str, bytes], None],
    ):
        self._world_id = world_id
        self._network = network
        self._metrics = metrics
        self._admits = admits
        self._take = take
        self._fetching = Fetching()
        self._spawner = Spawner()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Serves parts, and fetches until the task group ends."""
        self._spawner.open(tasks)
        self._network.serve(GET_PART, self._serve)

    def offer_of(self, body: ProposalBody, *, size: int) -> bytes | None:
        """Returns the offer to gossip for a proposal of this size, and serves its parts; None for one to send whole."""
        if size <= LARGE_BYTES:
            return None
        batch = self._fetching.kept(body.block.action_root) or split(body)
        if len(batch.ids) > MAX_PARTS:
            return None
        offer = encode(ProposalOffer(body.proposal, body.block, batch.size, batch.ids))
        if len(offer) > OFFER_BYTES:
            return None
        self._fetching.keep(body.block.action_root, batch)
        return offer

    def offered(self, peer_id: str, offer: ProposalOffer) -> None:
        """Takes in a verified offer; raises a typed error for one whose sizes are wrong, or by who has lied."""
        self._hand_on(self._fetching.offer(peer_id, offer))
        self._ask()

    def decided(self, height: int) -> None:
        """Stops fetching for a height, since its block is here."""
        self._fetching.decided(height)

    def _ask(self) -> None:
        members = [peer_id for peer_id in self._network.connected() if self._admits(peer_id)]
        for ask in self._fetching.asks(members):
            self._spawner.spawn(self._fetch(ask), name="fetch-part")

    async def _fetch(self, ask: Ask) -> None:
        question = encode(GetPart(self._world_id, ask.part))
        try:
            answer = await self._network.request(ask.peer_id, GET_PART, question, timeout=PART_SECONDS)
        except AgentWorldError as error:
            self._refused(ask, "refused", error)
            self._fetching.failed(ask)
        else:
            self._judge(ask, answer)
        self._ask()

    def _judge(self, ask: Ask, answer: bytes) -> None:
        try:
            data = decode(Part, answer, limit=ANSWER_BYTES).data
        except AgentWorldError as error:
            self._refused(ask, "wrong", error)
            self._fetching.lied(ask)
            return
        try:
            arrived = self._fetching.took(ask, data)
        except AgentWorldError as error:
            self._refused(ask, "wrong", error)
        else:
            self._metrics.count("agentworld_parts_total", outcome="fetched")
            self._hand_on(arrived)

    def _refused(self, ask: Ask, outcome: str, error: AgentWorldError) -> None:
        self._metrics.count("agentworld_parts_total", outcome=outcome)
        log.debug("part %d of a batch at %s: %s", ask.index, ask.peer_id, error)

    def _hand_on(self, arrived: list[Arrived]) -> None:
        for proposal in arrived:
            self._take(proposal.peer_id, proposal.data)

    async def _serve(self, _peer_id: str, payload: bytes) -> bytes:
        question = decode(GetPart, payload, limit=QUESTION_BYTES)
        if question.world_id != self._world_id:
            raise WrongWorld("this node serves another world", field="world_id", value=question.world_id)
        data = self._fetching.part(question.part)
        if data is None:
            raise NotFound("is no part of a proposal that is here", field="part", value=question.part)
        self._metrics.count("agentworld_parts_total", outcome="served")
        return encode(Part(data))
