"""Speaks for the governance keys: signs directories and revocations, stores what is signed, and hands it to the nodes.

What is signed is stored before it leaves, so that an operator that is killed in between continues with the very same
document and never signs two directories for one epoch while the first may still come into force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.builder import revoked_key
from agentworld_core.membership.directory import check_next_directory, check_threshold
from agentworld_core.membership.steps import PublishDirectory
from agentworld_core.membership.upkeep import build_next, may_follow
from agentworld_core.messages import Directory, Revocation, RevokedKey
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_core.signing import Ed25519Signer, add_signature
from agentworld_core.topology.plan import Topology
from agentworld_operator.errors import NodeRefused, NodeUnreachable
from agentworld_operator.nodes.port import NodeApi
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan import files
from agentworld_operator.plan.keys import HeldKeys
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import data_of

log = logging.getLogger(__name__)

_DIRECTORY = "directory.cbor"
_REVOCATION = "revocation-"


class Governance:
    """The governance of one world during one reconcile; ``complaint`` is why the nodes refused a directory."""

    def __init__(self, nodes: NodeApi, applier: Applier, topology: Topology, held: Mapping[str, HeldKeys]):
        self._nodes = nodes
        self._applier = applier
        self._world = topology.world.metadata
        self._signers = [
            item.signer
            for name in topology.governance_keys
            for item in (held[name].usable if name in held else ())
            if item.signer is not None
        ]
        self.complaint = ""
        self.statements: dict[str, Revocation] = {}
        self.candidate: Directory | None = None
        self.active: dict[str, str] = {}
        self._read()

    def revoked(self, current: Directory) -> list[RevokedKey]:
        """Returns all revocations known, those that no directory lists yet included."""
        known = {item.key_id: item for item in map(revoked_key, self.statements.values())}
        known.update({item.key_id: item for item in current.revoked})
        return [known[key_id] for key_id in sorted(known)]

    def pending(self, current: Directory) -> Directory | None:
        """Returns the directory that was signed and is not in force yet, None when there is none that may follow."""
        revoked = [item.key_id for item in self.revoked(current)]
        if self.candidate is not None and may_follow(current, self.candidate, revoked):
            return self.candidate
        return None

    def sign_revocation(self, statement: Revocation, current: Directory) -> None:
        """Signs a revocation with the governance keys of the directory in force."""
        trusted = [key.key_id for key in current.governance]
        for signer in self._usable(trusted, besides=[key for key in self.statements if key != statement.key_id]):
            statement = add_signature(statement, signer)
        check_threshold(statement, current)
        self.statements[statement.key_id] = statement

    def sign_directory(self, current: Directory, step: PublishDirectory, *, now_ms: int) -> Directory:
        """Signs the next epoch with every governance key that it or its predecessor trusts, and checks it."""
        proposed = build_next(current, step, now_ms=now_ms)
        trusted = [key.key_id for key in (*current.governance, *proposed.governance)]
        for signer in self._usable(trusted, besides=self.statements):
            proposed = add_signature(proposed, signer)
        check_next_directory(current, proposed)
        self.candidate = proposed
        return proposed

    def sign_transfer(self, wish: WriterTransfer, current: Directory) -> WriterTransfer:
        """Returns the wish signed with the governance keys of the directory in force, and checked."""
        trusted = [key.key_id for key in current.governance]
        for signer in self._usable(trusted, besides=self.statements):
            wish = add_signature(wish, signer)
        check_threshold(wish, current)
        return wish

    async def store(self) -> None:
        """Stores everything that is signed, before any node hears of it."""
        documents = {f"{_REVOCATION}{key_id}.cbor": encode(item) for key_id, item in sorted(self.statements.items())}
        if self.candidate is not None:
            documents[_DIRECTORY] = encode(self.candidate)
        desired = files.membership_config_map(self._world, documents)
        desired["data"] = dict(sorted(self.active.items()))
        if documents or self.active:
            await self._applier.ensure(desired)

    async def submit(self, directory: Directory, addresses: Mapping[str, str]) -> None:
        """Hands a signed directory to every node that answers; one that takes it is enough."""
        outcomes = await asyncio.gather(*(self._push_directory(directory, address) for address in addresses.values()))
        complaints = [complaint for complaint in outcomes if complaint]
        if complaints and len(complaints) == len(outcomes):
            self.complaint = complaints[0]
            log.warning("directory epoch %d of %s is refused: %s", directory.epoch, self._world.name, complaints[0])

    async def push_revocations(
        self, statuses: Mapping[str, NodeStatus], addresses: Mapping[str, str], *, forced: Iterable[str]
    ) -> dict[str, str]:
        """Hands each node the revocations that it does not have yet; returns refusals by key id."""
        force = frozenset(forced)
        missing = [
            (name, statement)
            for name, status in sorted(statuses.items())
            for key_id, statement in sorted(self.statements.items())
            if key_id not in status.revoked
        ]
        refusals = await asyncio.gather(
            *(
                self._push_revocation(statement, addresses[name], force=statement.key_id in force)
                for name, statement in missing
            )
        )
        return {
            statement.key_id: f"{name}: {refusal}"
            for (name, statement), refusal in zip(missing, refusals, strict=True)
            if refusal
        }

    async def _push_revocation(self, statement: Revocation, address: str, *, force: bool) -> str:
        """Returns why a node refuses the revocation, empty when it took it or does not answer."""
        try:
            await self._nodes.push_revocation(address, statement, force=force)
        except NodeUnreachable as error:
            log.debug("revocation of %s at %s: %s", statement.key_id, address, error)
        except NodeRefused as error:
            log.warning("revocation of %s is refused at %s: %s", statement.key_id, address, error)
            return error.message
        return ""

    async def _push_directory(self, directory: Directory, address: str) -> str:
        """Returns why a node refuses the directory, empty when it took it, or may take it later."""
        try:
            await self._nodes.push_directory(address, directory)
        except NodeUnreachable as error:
            log.debug("directory epoch %d at %s: %s", directory.epoch, address, error)
        except NodeRefused as error:
            return "" if error.again else f"{error.refusal}: {error.message}"
        return ""

    def _usable(self, trusted: Iterable[str], *, besides: Iterable[str]) -> list[Ed25519Signer]:
        wanted, excluded = list(trusted), list(besides)
        return [signer for signer in self._signers if signer.key_id in wanted and signer.key_id not in excluded]

    def _read(self) -> None:
        live = self._applier.ours("ConfigMap").get(names.membership_config(self._world.name))
        if live is None:
            return
        self.active = {str(key): str(value) for key, value in (live.get("data") or {}).items()}
        for name, data in sorted(data_of(live, "binaryData").items()):
            try:
                if name == _DIRECTORY:
                    self.candidate = decode(Directory, data)
                elif name.startswith(_REVOCATION):
                    statement = decode(Revocation, data)
                    self.statements[statement.key_id] = statement
            except AgentWorldError as error:
                log.warning("ConfigMap entry %s of %s is not what we stored: %s", name, self._world.name, error)
