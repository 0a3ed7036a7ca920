"""Asks the nodes of a world how they are, and finds out which directory governs them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Collection, Iterable, Mapping

from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.directory import check_threshold, directory_hash
from agentworld_core.messages import Directory, Genesis
from agentworld_operator.errors import NodeRefused, NodeUnreachable
from agentworld_operator.nodes.port import NodeApi
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan.running import PodFacts

log = logging.getLogger(__name__)
_MAX_CACHED = 1024


async def poll(nodes: NodeApi, pods: Iterable[PodFacts]) -> dict[str, NodeStatus]:
    """Returns the status of every pod that answers, by pod name; all are asked at the same time."""
    asked = [pod for pod in pods if pod.address]
    answers = await asyncio.gather(*(_status(nodes, pod) for pod in asked))
    return {pod.name: answer for pod, answer in zip(asked, answers, strict=True) if answer is not None}


def of_world(statuses: Mapping[str, NodeStatus], genesis_hash: str) -> dict[str, NodeStatus]:
    """Returns the statuses of nodes that run this very world: an address may by now be somebody else's."""
    return {name: status for name, status in statuses.items() if status.genesis_hash in ("", genesis_hash)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
    """By what a directory is judged: the genesis, the governance keys that we know, and those judged before."""

    genesis: Genesis
    governance: Collection[str]
    judged: dict[str, Directory]


async def current_directory(
    nodes: NodeApi, trust: Trust, statuses: Mapping[str, NodeStatus], addresses: Mapping[str, str]
) -> Directory | None:
    """Returns the newest directory in force at any node, proven by governance signatures; None when nobody answers.

    A node is believed only what the document proves: its hash, its world, and the signatures of governance keys.
    """
    cache, genesis = trust.judged, trust.genesis
    genesis_hash = directory_hash(genesis.directory)
    cache[genesis_hash] = genesis.directory
    ordered = sorted(statuses.items(), key=lambda item: (-item[1].directory.epoch, item[0]))
    for name, status in ordered:
        wanted = status.directory
        if wanted.hash in cache:
            return cache[wanted.hash]
        if not wanted.hash:
            continue
        try:
            directory = await nodes.directory(addresses[name], wanted.epoch)
            if directory_hash(directory) != wanted.hash or directory.world_id != genesis.world_id:
                raise NodeRefused("answered with another directory than it named", refusal="hash_mismatch", again=True)
            _check_signed(directory, trust)
        except AgentWorldError as error:
            log.warning("directory epoch %d of node %s: %s", wanted.epoch, name, error)
            continue
        while len(cache) >= _MAX_CACHED:
            cache.pop(next(iter(cache)))
        cache[wanted.hash] = directory
        return directory
    return None


def _check_signed(directory: Directory, trust: Trust) -> None:
    check_threshold(directory, directory)
    known = [*trust.governance, *(key.key_id for key in trust.genesis.directory.governance)]
    if not any(item.key_id in known for item in directory.signatures):
        raise NodeRefused("answered with a directory that none of our keys signed", refusal="unauthorized", again=True)


async def _status(nodes: NodeApi, pod: PodFacts) -> NodeStatus | None:
    try:
        return await nodes.status(pod.address)
    except (NodeUnreachable, NodeRefused) as error:
        log.debug("pod %s: %s", pod.name, error)
        return None
