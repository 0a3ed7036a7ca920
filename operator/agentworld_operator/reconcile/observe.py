"""Asks the nodes of a world how they are, and finds out which directory governs them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from agentworld_core.consensus.evidence import check_equivocation, evidence_id
from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.directory import check_next_directory, directory_hash
from agentworld_core.messages import Directory, Equivocation, Genesis
from agentworld_operator.errors import NodeRefused, NodeUnreachable
from agentworld_operator.nodes.port import NodeApi
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan.running import PodFacts

log = logging.getLogger(__name__)

Proven = dict[str, Directory]
"""The newest directory that was checked back to its genesis, by the hash of the first."""

Checked = dict[str, Equivocation | None]
"""Proofs that validators voted twice, by their content ids; None for what proves nothing."""

CHECKED_KEPT = 4096


async def poll(nodes: NodeApi, pods: Iterable[PodFacts]) -> dict[str, NodeStatus]:
    """Returns the status of every pod that answers, by pod name; all are asked at the same time."""
    asked = [pod for pod in pods if pod.address]
    answers = await asyncio.gather(*(_status(nodes, pod) for pod in asked))
    return {pod.name: answer for pod, answer in zip(asked, answers, strict=True) if answer is not None}


def of_world(statuses: Mapping[str, NodeStatus], genesis_hash: str) -> dict[str, NodeStatus]:
    """Returns the statuses of nodes that run this very world: an address may by now be somebody else's."""
    return {name: status for name, status in statuses.items() if status.genesis_hash in ("", genesis_hash)}


async def current_directory(
    nodes: NodeApi, genesis: Genesis, statuses: Mapping[str, NodeStatus], addresses: Mapping[str, str], proven: Proven
) -> Directory | None:
    """Returns the newest directory in force at any node, None when nobody answers.

    A node is believed only what the documents prove: every epoch from the genesis on follows its predecessor and is
    signed by its governance. ``proven`` remembers how far that was checked, and is brought up to date.
    """
    if not statuses:
        return None
    start = directory_hash(genesis.directory)
    current = proven.get(start, genesis.directory)
    for name, status in sorted(statuses.items(), key=lambda item: (-item[1].directory.epoch, item[0])):
        try:
            while current.epoch < status.directory.epoch:
                following = await nodes.directory(addresses[name], current.epoch + 1)
                check_next_directory(current, following)
                current = proven[start] = following
            break
        except AgentWorldError as error:
            log.warning("directory epoch %d of node %s: %s", current.epoch + 1, name, error)
    return current


async def proven_evidence(
    nodes: NodeApi, genesis: Genesis, statuses: Mapping[str, NodeStatus], addresses: Mapping[str, str], known: Checked
) -> dict[str, Equivocation]:
    """Returns the proofs that nodes tell of, those that hold: no node is believed that another one voted twice.

    ``known`` remembers what was checked, and is brought up to date.
    """
    told = {content_hash for status in statuses.values() for content_hash in status.evidence}
    for name, status in sorted(statuses.items()):
        if all(content_hash in known for content_hash in status.evidence):
            continue
        try:
            for item in (await nodes.evidence(addresses[name])).items:
                key = evidence_id(item)
                if key in known or key not in status.evidence or len(known) >= CHECKED_KEPT:
                    continue
                directory = await _epoch(nodes, genesis, addresses[name], item.first.directory_epoch)
                known[key] = _checked(item, directory, name)
        except AgentWorldError as error:
            log.warning("the evidence of node %s: %s", name, error)
    found = {key: known.get(key) for key in sorted(told)}
    return {key: item for key, item in found.items() if item is not None and item.first.world_id == genesis.world_id}


async def _epoch(nodes: NodeApi, genesis: Genesis, address: str, epoch: int) -> Directory:
    """Returns an epoch of the directory, followed from the genesis."""
    current = genesis.directory
    while current.epoch < epoch:
        following = await nodes.directory(address, current.epoch + 1)
        check_next_directory(current, following)
        current = following
    return current


def _checked(item: Equivocation, directory: Directory, name: str) -> Equivocation | None:
    try:
        check_equivocation(item, directory)
    except AgentWorldError as error:
        log.warning("node %s tells of evidence that proves nothing: %s", name, error)
        return None
    return item


async def _status(nodes: NodeApi, pod: PodFacts) -> NodeStatus | None:
    try:
        return await nodes.status(pod.address)
    except (NodeUnreachable, NodeRefused) as error:
        log.debug("pod %s: %s", pod.name, error)
        return None
