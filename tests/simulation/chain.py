"""What a node has committed: the production ledger, with executions shared by all nodes, since they are the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from agentworld_core.codec import encode
from agentworld_core.errors import AgentWorldError, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution, HeaderInput, execute
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.validate import check_block
from agentworld_core.membership.keyring import Keyring
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    Directory,
    Genesis,
    Parameters,
    Round,
    WorldBlock,
)
from agentworld_core.ordering.batch import BatchLimits, draft_batch
from agentworld_core.signing import Signer, add_signature, sign
from agentworld_core.world.actions import AGENT_MOVE, AGENT_REGISTER, make_action, sign_action
from agentworld_core.world.modules.sandbox import Sandbox
from tests.unit.core.membership.worlds import WORLD, signer

LIMITS = BatchLimits(max_actions=8, max_bytes=64 * 1024)
SNAPSHOT_EVERY = 4


def genesis_of(directory: Directory, *, leaseless: bool) -> Genesis:
    """Returns the signed document that a world begins with."""
    parameters = Parameters(
        block_interval_ms=0,
        max_batch_actions=LIMITS.max_actions,
        max_batch_bytes=LIMITS.max_bytes,
        journal_events_per_segment=8,
        snapshot_interval=SNAPSHOT_EVERY,
        leaseless=leaseless,
    )
    unsigned = Genesis(WORLD, created_at_ms=0, parameters=parameters, directory=directory, signatures=())
    return add_signature(unsigned, signer("gov"))


@functools.lru_cache(20_000)
def action(actor: str, nonce: int) -> ActionEnvelope:
    """Returns a signed action: the first of an actor registers it, every further one moves it elsewhere."""
    kind, payload = (AGENT_MOVE, {"to": [nonce, 0]}) if nonce else (AGENT_REGISTER, {"position": [0, 0]})
    envelope = make_action(world_id=WORLD, actor_id=actor, kind=kind, payload=payload, nonce=nonce, timestamp_ms=0)
    return sign_action(envelope, signer(actor))


Verdict = Execution | str


class Executions:
    """Executes and judges every block once, whoever asks: both depend on nothing but the block and its parent."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, str, str], Verdict] = {}

    def judge(self, chain: ChainState, block: WorldBlock, batch: ActionBatch) -> Verdict:
        """Returns the execution of a block that is right on top of the chain, or what is wrong with it."""
        key = (chain.block_hash, content_id(encode(block)), content_id(encode(batch)))
        verdict = self._verdicts.get(key)
        if verdict is None:
            try:
                verdict = check_block(chain, block, batch)
            except AgentWorldError as error:
                verdict = f"{error.code}: {error}"
            self._verdicts[key] = verdict
        return verdict


class Admissions:
    """Judges every action once for each state, whoever asks: the answer depends on nothing else."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], tuple[ActionEnvelope, AgentWorldError | None]] = {}

    def check(self, state: ChainState, action: ActionEnvelope, judge: Callable[..., None]) -> None:
        """Raises what production's ``check_admission`` (``judge``) raises for this very object on this state."""
        key = (state.state_root, id(action))
        answer = self._answers.get(key)
        if answer is None:
            error: AgentWorldError | None = None
            try:
                judge(state.tree, action, world_id=WORLD, register_pending=True)
            except AgentWorldError as refused:
                error = refused.with_traceback(None)
            answer = self._answers[key] = (action, error)
        if answer[1] is not None:
            raise answer[1]


@dataclass(frozen=True)
class Beginning:
    """Where all nodes begin."""

    genesis: Genesis
    state: ChainState


def beginning(directory: Directory, *, leaseless: bool, sandbox: Sandbox | None = None) -> Beginning:
    """Returns the genesis document and the chain of height 0."""
    genesis = genesis_of(directory, leaseless=leaseless)
    return Beginning(genesis, chain_from_genesis(genesis, sandbox=sandbox))


class Chain:
    """One node's chain and keyring."""

    def __init__(self, start: Beginning, executions: Executions):
        self.keyring = Keyring(start.genesis.directory)
        self.state = start.state
        self.bundles: list[BlockBundle] = []
        self.applied: dict[str, int] = {}
        self._executions = executions

    @property
    def height(self) -> int:
        """The last committed height."""
        return self.state.height

    @property
    def term(self) -> int:
        """The term of the last block."""
        return self.state.term

    @property
    def round(self) -> Round:
        """The round that the last block was made in."""
        return self.state.round

    def build(
        self,
        signer: Signer,
        header: HeaderInput,
        *,
        actions: tuple[ActionEnvelope, ...],
        directory: Directory | None,
    ) -> tuple[WorldBlock, ActionBatch]:
        """Makes a signed block of a batch on top of the head."""
        draft = draft_batch(
            self.state.world_id,
            actions,
            height=header.height,
            term=header.term,
            proposer_id=header.proposer_id,
            timestamp_ms=header.timestamp_ms,
            directory=directory,
        )
        batch = sign(draft, signer)
        execution = execute(self.state, batch, header)
        return sign(execution.block, signer), batch

    def header(self, signer: Signer, round_: Round, *, proposer: str, time_ms: int) -> HeaderInput:
        """Returns the header of the next block."""
        return HeaderInput(
            height=self.height + 1,
            term=round_.term,
            attempt=round_.attempt,
            proposer_id=proposer,
            key_id=signer.key_id,
            timestamp_ms=max(time_ms, self.state.time_ms),
        )

    def judge(self, block: WorldBlock, batch: ActionBatch) -> Verdict:
        """Returns the execution of a block that follows the head, or what is wrong with it."""
        return self._executions.judge(self.state, block, batch)

    def append(self, bundle: BlockBundle) -> None:
        """Takes a committed bundle as the new head."""
        verdict = self.judge(bundle.block, bundle.batch)
        if isinstance(verdict, str):
            raise StateMismatch(f"a committed block is wrong: {verdict}")
        self.state = verdict.chain_after(bundle.block)
        self.bundles.append(bundle)
        for receipt in verdict.receipts:
            if receipt.code != "nonce_used":
                self.applied.setdefault(receipt.action_id, bundle.block.height)
        if verdict.scheduled is not None:
            self.keyring.append(verdict.scheduled.directory, effective_height=verdict.scheduled.effective_height)
