"""Changes the code and the rules of a running world: publishes artifacts, and takes proposals through their steps.

Every step is an action of one agent, signed with a governance key, and therefore part of the ledger. Nothing here is
trusted: the world judges each action when its turn comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from agentworld_client.errors import ActionNotTaken
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all
from agentworld_core.codec import Value, decode_value
from agentworld_core.errors import InvalidField, NotFound, TimedOut
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.actions import AGENT_REGISTER
from agentworld_core.world.modules.artifacts import MAX_ARTIFACT_BYTES, split_artifact
from agentworld_core.world.modules.changes import parse_changes
from agentworld_core.world.modules.governance_actions import (
    ARTIFACT_PUT,
    PROPOSAL_APPLY,
    PROPOSAL_APPROVE,
    PROPOSAL_CREATE,
    PROPOSAL_REJECT,
    PROPOSAL_SHADOW,
)
from agentworld_core.world.modules.manifest import parse_manifest
from agentworld_core.world.modules.records import (
    MANIFEST_KEY,
    PROPOSALS_KEY,
    ActiveRecord,
    ArtifactRecord,
    ChangesRecord,
    FlatRecord,
    ManifestRecord,
    ProposalCount,
    ProposalRecord,
    RegistryRecord,
    active_key,
    artifact_key,
    changes_key,
    proposal_key,
    registry_key,
)
from agentworld_core.world.state import agent_key

PUBLISH_ROUNDS = 5
SHADOW_FAILED = "shadow_failed"

_R = TypeVar("_R", bound=FlatRecord)


class Governor:
    """One agent of governance in one world."""

    def __init__(self, client: GatewayClient, agent: Agent):
        self._client = client
        self._agent = agent

    async def register(self) -> None:
        """Makes the agent known to the world, unless it is."""
        if await self._state(agent_key(self._agent.actor_id)) is None:
            await self._take(AGENT_REGISTER, {"position": [0, 0]})

    async def publish(self, code: bytes) -> str:
        """Brings code onto the ledger and returns its content id; what is there already is not sent again."""
        artifact = content_id(code)
        pieces = split_artifact(code)
        refused: ActionNotTaken | None = None
        # A piece that overtakes another is refused; then the rest is sent again.
        for _ in range(PUBLISH_ROUNDS):
            record = await self._record(artifact_key(artifact), ArtifactRecord)
            if record is not None and record.complete:
                return artifact
            missing = pieces[0 if record is None else record.received :]
            try:
                await self._commit([self._agent.act(ARTIFACT_PUT, piece) for piece in missing])
            except ActionNotTaken as error:
                refused = error
        record = await self._record(artifact_key(artifact), ArtifactRecord)
        if record is not None and record.complete:
            return artifact
        raise refused or TimedOut("the artifact is not whole yet", field="artifact", value=artifact)

    async def changes_for(self, manifest: dict[str, Value], *, activate: bool) -> dict[str, Value]:
        """Returns the change set that registers a module, or upgrades the one that is active under its id.

        A version that is registered already is only activated; InvalidField when that was with another manifest.
        """
        found = parse_manifest(manifest)
        known = await self._record(registry_key(found.module_id, found.version), RegistryRecord)
        if known is not None:
            if known.manifest != manifest:
                raise InvalidField(
                    "is registered with another manifest",
                    field="manifest.version",
                    value=found.version,
                    remedy="give the module a new version",
                )
            return {"activate": [{"module_id": found.module_id, "version": found.version}]}
        active = await self._record(active_key(found.module_id), ActiveRecord)
        changes: dict[str, Value] = {"register": [manifest]}
        if active is not None:
            upgrade: dict[str, Value] = {
                "module_id": found.module_id,
                "from_version": active.version,
                "to_version": found.version,
                "wasm_hash": found.wasm_hash,
                "manifest": manifest,
            }
            changes = {"upgrade": [upgrade]}
        if activate:
            changes["activate"] = [{"module_id": found.module_id, "version": found.version}]
        return changes

    async def propose(self, changes: Mapping[str, Value]) -> int:
        """Makes a proposal on top of the world's present manifest and returns its number."""
        wanted = dict(changes)
        parse_changes(wanted)
        manifest = await self._record(MANIFEST_KEY, ManifestRecord) or ManifestRecord()
        await self._take(PROPOSAL_CREATE, {"base": manifest.hash, "changes": wanted})
        for number in range((await self._count()).next - 1, 0, -1):
            record = await self._record(proposal_key(number), ProposalRecord)
            if record is not None and record.author == self._agent.actor_id:
                return number
        raise NotFound("the proposal is committed, but the node does not show it yet", remedy="list the proposals")

    async def shadow(self, number: int) -> dict[str, Any]:
        """Has the world judge a proposal without applying it, and returns its report; ``status`` is ok or failed."""
        try:
            await self._take(PROPOSAL_SHADOW, {"proposal": number})
        except ActionNotTaken as error:
            if error.code != SHADOW_FAILED:
                raise
        return (await self.proposal(number)).report

    async def approve(self, number: int) -> None:
        """Approves a proposal of somebody else."""
        await self._take(PROPOSAL_APPROVE, {"proposal": number})

    async def apply(self, number: int) -> None:
        """Puts an approved proposal into force."""
        await self._take(PROPOSAL_APPLY, {"proposal": number})

    async def reject(self, number: int, reason: str) -> None:
        """Closes a proposal for good."""
        await self._take(PROPOSAL_REJECT, {"proposal": number, "reason": reason})

    async def proposal(self, number: int) -> ProposalRecord:
        """Returns a proposal as it is now; raises NotFound."""
        return await read_proposal(self._client, number)

    async def _count(self) -> ProposalCount:
        return await self._record(PROPOSALS_KEY, ProposalCount) or ProposalCount()

    async def _take(self, kind: str, payload: Mapping[str, Value]) -> None:
        await self._commit([self._agent.act(kind, payload)])

    async def _commit(self, actions: list[ActionEnvelope]) -> None:
        """Returns when all actions are committed and none was refused; raises ActionNotTaken for the first that was."""
        for receipt in await submit_all(self._client, actions, wait=True):
            if "error" in receipt:
                raise ActionNotTaken(receipt["error"]["code"], str(receipt["error"]["message"]))
            if receipt["status"] != "committed":
                raise TimedOut("the action is not committed yet", field="action_id", value=receipt["action_id"])
            if not receipt["ok"]:
                raise ActionNotTaken(receipt["code"], receipt["message"])

    async def _state(self, key: bytes) -> Value:
        return await read_value(self._client, key)

    async def _record(self, key: bytes, kind: type[_R]) -> _R | None:
        value = await self._state(key)
        return None if value is None else kind.from_value(value)


def manifest_for(code: bytes, given: Mapping[str, Value]) -> dict[str, Value]:
    """Returns the manifest of this code, with its ``wasm_hash`` filled in where it was left out.

    Raises InvalidField for a manifest that no world would take, or for other code, and for code of a wrong size.
    """
    if not 0 < len(code) <= MAX_ARTIFACT_BYTES:
        raise InvalidField(f"must have 1 to {MAX_ARTIFACT_BYTES} bytes", field="code", value=len(code))
    artifact = content_id(code)
    whole: dict[str, Value] = {"wasm_hash": artifact, **given}
    if parse_manifest(whole).wasm_hash != artifact:
        raise InvalidField(f"the code has {artifact}", field="manifest.wasm_hash", value=given["wasm_hash"])
    return whole


async def read_value(client: GatewayClient, key: bytes) -> Value:
    """Returns what the head's state holds under a key, as the node says it; None when that is nothing."""
    answer = await client.state(key.decode())
    return decode_value(bytes.fromhex(answer["value_cbor"])) if answer["found"] else None


async def read_proposal(client: GatewayClient, number: int) -> ProposalRecord:
    """Returns a proposal as the node has it; raises NotFound."""
    value = await read_value(client, proposal_key(number))
    if value is None:
        raise NotFound("there is no such proposal", field="proposal", value=number)
    return ProposalRecord.from_value(value)


async def read_changes(client: GatewayClient, number: int) -> dict[str, Value]:
    """Returns what an open proposal would change, as the node has it; nothing for a closed one."""
    value = await read_value(client, changes_key(number))
    return {} if value is None else ChangesRecord.from_value(value).changes
