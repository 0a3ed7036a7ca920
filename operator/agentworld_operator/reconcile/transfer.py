"""Hands the writer lease to the validator that an annotation of the World names: once, with one answer.

    kubectl annotate aw/aurora agentworld.dev/transfer-to=aurora-2

The operator signs the wish with the governance keys, the nodes carry it out, an event says how it ended, and the
annotation goes. It stays, and the condition Progressing says why, only while there is nobody to hand the lease over or
while the outcome is not known; the term in the wish keeps it from being carried out twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.directory import find_member
from agentworld_core.messages import Directory
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_operator.errors import NodeRefused, NodeUnreachable
from agentworld_operator.plan.lease import writer_of
from agentworld_operator.reconcile import events
from agentworld_operator.reconcile.membership import Governed
from agentworld_operator.resources import names, reasons
from agentworld_operator.resources.objects import Object, annotation, name_of
from agentworld_operator.resources.status import listing

log = logging.getLogger(__name__)

TRANSFER_TO = "agentworld.dev/transfer-to"

VALID_MS = 60_000
"""How long a wish that was signed may be carried out, by the nodes' clocks."""

_PASSING = "state_mismatch"
"""The refusal because the lease has moved, or is nobody's, at this moment."""


async def drive_transfer(governed: Governed, raw_world: Object) -> str:
    """Carries out the transfer that the World asks for; returns what it still waits for, empty when for nothing."""
    wanted = (raw_world["metadata"].get("annotations") or {}).get(TRANSFER_TO)
    if wanted is None:
        return ""
    transfer = _Transfer(governed, raw_world, str(wanted).strip())
    try:
        return await transfer.run()
    except _Ended as ended:
        await transfer.answer(ended.happened)
        return ""


class _Ended(Exception):
    """The wish was carried out or refused for good; ``happened`` is the answer."""

    def __init__(self, kind: str, reason: str, message: str):
        super().__init__(message)
        self.happened = events.Happened(type=kind, reason=reason, message=message)


class _Transfer:
    """One wish during one pass."""

    def __init__(self, governed: Governed, raw_world: Object, wanted: str):
        self._governed = governed
        self._raw_world = raw_world
        self._wanted = wanted

    async def run(self) -> str:
        """Returns what the transfer waits for; raises ``_Ended`` with the answer."""
        target = self._target()
        directory = self._governed.directory
        if directory is None:
            return f"the writer lease is to go to {target}: no node answers"
        if find_member(directory, target) is None:
            raise self._refusal(f"{target} is no member of the directory of epoch {directory.epoch}")
        holder, term = writer_of(self._governed.applier.live("Lease", names.sequencer_lease(name_of(self._raw_world))))
        if holder == target:
            raise _Ended(events.NORMAL, reasons.WRITER_TRANSFERRED, f"{target} writes, in term {term}")
        if find_member(directory, holder) is None:
            says = f"the Lease names {holder}, which is no validator" if holder else "nobody holds the Lease"
            return f"the writer lease is to go to {target}: {says}"
        return await self._ask(self._sign(directory, target, term), directory, holder)

    async def answer(self, happened: events.Happened) -> None:
        """Tells how it ended, and takes the annotation away, unless it asks for something else by now."""
        kube, namespace = self._governed.context.kube, self._raw_world["metadata"]["namespace"]
        log.info("transfer of the writer of %s to %s: %s", name_of(self._raw_world), self._wanted, happened.message)
        await events.post(kube, self._raw_world, happened, now_ms=self._governed.now_ms)
        now = await kube.get("World", namespace, name_of(self._raw_world))
        if now is None or annotation(now, TRANSFER_TO).strip() != self._wanted:
            return
        version = now["metadata"].get("resourceVersion")
        patch = {"metadata": {"resourceVersion": version, "annotations": {TRANSFER_TO: None}}}
        await kube.patch("World", namespace, name_of(self._raw_world), patch)

    def _target(self) -> str:
        """Returns the id of the validator that is named, by its resource or by its id."""
        nodes = [node for node in self._governed.topology.nodes if node.kind == "validator"]
        by_name = {node.name: node.node_id for node in nodes}
        if self._wanted in by_name:
            return by_name[self._wanted]
        if self._wanted in by_name.values():
            return self._wanted
        named = f"no Validator of this World is called {self._wanted}" if self._wanted else "names no Validator"
        raise self._refusal(f"{named}; there are {listing(sorted(by_name), limit=8)}")

    def _sign(self, directory: Directory, target: str, term: int) -> WriterTransfer:
        wish = WriterTransfer(
            world_id=directory.world_id,
            target_id=target,
            term=term,
            expires_at_ms=self._governed.context.now_ms() + VALID_MS,
            signatures=(),
        )
        try:
            return self._governed.governance.sign_transfer(wish, directory)
        except AgentWorldError as error:
            raise self._refusal(f"it cannot be signed: {error}; restore the Secrets of the governance keys") from error

    async def _ask(self, wish: WriterTransfer, directory: Directory, holder: str) -> str:
        """Has the holder carry the wish out, or a node that reaches it."""
        target = wish.target_id
        waits = f"the writer lease is to go from {holder} to {target}"
        for address in self._addresses(holder):
            try:
                await self._governed.context.nodes.transfer_writer(address, wish)
            except NodeUnreachable as error:
                log.info("transfer of the writer of %s to %s: %s", directory.world_id, target, error)
                continue
            except NodeRefused as error:
                if error.refusal != _PASSING:
                    raise self._refusal(error.message) from error
                self._governed.moved = True
                return f"{waits}: {error.message}"
            raise _Ended(
                events.NORMAL,
                reasons.WRITER_TRANSFERRED,
                f"{target} writes instead of {holder}, in term {wish.term + 1}, as the World asked",
            )
        self._governed.moved = True
        return f"{waits}: no node that could do it answers"

    def _addresses(self, holder: str) -> list[str]:
        """Returns where to ask: the holder first, then one other node, which may know better."""
        ids: Mapping[str, str] = {name: status.node_id for name, status in self._governed.statuses.items()}
        ordered = sorted(self._governed.addresses, key=lambda name: (ids.get(name) != holder, name))
        return [self._governed.addresses[name] for name in ordered][:2]

    def _refusal(self, why: str) -> _Ended:
        says = f"the writer lease does not go to {self._wanted or 'anybody'}: {why}. The annotation is removed"
        return _Ended(events.WARNING, reasons.TRANSFER_REFUSED, says)
