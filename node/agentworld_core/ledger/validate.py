"""Judges a block that somebody else made: every field against the chain, the batch and the execution (W12–W14).

A block is right when the batch it names gives, executed on top of its parent, exactly the block again, and when it was
signed and voted for by those whom the directory of its height names. Errors say the height and the field. There are two
levels (design decision 12): ``check_links`` leaves out the execution, ``check_bundle`` does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentworld_core.codec import encode, encode_value
from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField, StateMismatch, TooLarge, WrongWorld
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution, HeaderInput, action_root_of, block_hash_of, execute
from agentworld_core.ledger.chain import ChainLinks, ChainState, ScheduledDirectory, change_of, plan_directory_change
from agentworld_core.ledger.errors import ExecutionMismatch
from agentworld_core.ledger.segments import Journal
from agentworld_core.membership.directory import directory_hash, key_in_directory
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    CommitCertificate,
    Directory,
    Parameters,
    Round,
    WorldBlock,
)
from agentworld_core.signing import unsigned, verify
from agentworld_core.world.actions import check_envelope, envelope_id

Verified = Callable[[str], bool]
"""Says whether an action with this ``envelope_id`` has passed ``check_envelope`` before.

It is asked with the content id of the *whole* signed action: the action id does not cover the signature, so a cache by
action id would let a block with a broken signature pass on some nodes and not on others.
"""


def check_block(
    chain: ChainState, block: WorldBlock, batch: ActionBatch, *, verified: Verified | None = None
) -> Execution:
    """Returns the execution of a block that is right in all but its certificate; raises a typed error otherwise.

    Errors say the height and the field; ExecutionMismatch means that all signatures are right and the result is not.
    """
    _check_place(chain, block)
    _check_inputs(chain, block, batch, verified)
    execution = execute(chain, batch, HeaderInput.of(block), action_root=block.action_root)
    _compare(block, execution.block)
    return execution


def replay_bundle(chain: ChainState, bundle: BlockBundle, *, verified: Verified | None = None) -> Execution:
    """Returns the execution of a committed block that is right in everything, its certificate included."""
    block, certificate = bundle.block, bundle.certificate
    _check_place(chain, block)
    with _naming(block.height, "certificate"):
        check_committed(block, certificate, chain.directory_at(block.height))
    return check_block(chain, block, bundle.batch, verified=verified)


def check_bundle(chain: ChainState, bundle: BlockBundle, *, verified: Verified | None = None) -> ChainState:
    """Returns the chain with the bundle's block as its head, or raises a typed error that says what is wrong."""
    return replay_bundle(chain, bundle, verified=verified).chain_after(bundle.block)


def check_links(chain: ChainLinks, bundle: BlockBundle) -> ChainLinks:
    """Returns the chain after a committed block whose hashes, links, signatures and certificate are right.

    Nothing is executed: that its roots are those of its batch is only the word of the quorum that voted for it.
    """
    block = bundle.block
    _check_place(chain, block)
    with _naming(block.height, "certificate"):
        check_committed(block, bundle.certificate, chain.directory_at(block.height))
    scheduled = _check_inputs(chain, block, bundle.batch, None)
    has_snapshot = block.height % chain.parameters.snapshot_interval == 0
    for field, stated, expected in (
        ("journal_ref", block.journal_ref, content_id(encode(Journal(segments=block.segments)))),
        ("directory_change", block.directory_change, None if scheduled is None else change_of(scheduled)),
        ("snapshot_ref", block.snapshot_ref is not None, has_snapshot),
    ):
        if stated != expected:
            raise StateMismatch(f"height {block.height}: must be {expected}", field=f"block.{field}", value=stated)
    return ChainLinks(
        world_id=chain.world_id,
        genesis_hash=chain.genesis_hash,
        parameters=chain.parameters,
        height=block.height,
        block_hash=block_hash_of(block),
        state_root=block.state_root,
        round=Round(block.term, block.attempt),
        time_ms=block.timestamp_ms,
        directories=chain.directories if scheduled is None else (*chain.directories, scheduled),
    )


def check_alone(bundle: BlockBundle, directory: Directory) -> None:
    """Raises unless this directory's quorum committed the block, and the batch is the one that the block names.

    It is what can be said of one block without its predecessors: that the directory was in force at its height is the
    block's own word, which that quorum has signed.
    """
    block = bundle.block
    for field, stated, expected in (
        ("directory_epoch", block.directory_epoch, directory.epoch),
        ("directory_hash", block.directory_hash, directory_hash(directory)),
    ):
        if stated != expected:
            raise StateMismatch(f"height {block.height}: must be {expected}", field=f"block.{field}", value=stated)
    with _naming(block.height, "certificate"):
        check_committed(block, bundle.certificate, directory)
    _check_batch_fields(block, bundle.batch)


def check_committed(block: WorldBlock, certificate: CommitCertificate, directory: Directory) -> None:
    """Raises a typed error unless the certificate proves that the directory's quorum committed exactly this block."""
    if certificate.world_id != block.world_id:
        raise WrongWorld("is another world", field="world_id", value=certificate.world_id)
    if certificate.height != block.height:
        raise StateMismatch(f"the block has height {block.height}", field="height", value=certificate.height)
    expected = block_hash_of(block)
    if certificate.block_hash != expected:
        raise HashMismatch(f"the block is {expected}", field="block_hash", value=certificate.block_hash)
    # A block may be decided in a later round than it was made in, never in an earlier one.
    if Round(certificate.term, certificate.attempt) < Round(block.term, block.attempt):
        says = f"the block was made in round ({block.term}, {block.attempt})"
        raise StateMismatch(says, field="attempt", value=certificate.attempt)
    check_certificate(certificate, directory)


def _check_inputs(
    chain: ChainLinks, block: WorldBlock, batch: ActionBatch, verified: Verified | None
) -> ScheduledDirectory | None:
    """Raises unless block and batch are signed and in order by themselves; returns the directory that they schedule."""
    _check_batch_fields(block, batch)
    scheduled = None
    directory = chain.directory_at(block.height)
    with _naming(block.height, "block"):
        verify(block, key_in_directory(directory, block.proposer_id, block.key_id).public_key)
    with _naming(block.height, "batch"):
        verify(batch, key_in_directory(directory, batch.proposer_id, batch.key_id).public_key)
        if batch.directory is not None:
            with _naming(None, "directory"):
                scheduled = plan_directory_change(chain, batch.directory, time_ms=block.timestamp_ms)
        _check_actions(batch, chain.parameters, verified)
    return scheduled


def _check_place(chain: ChainLinks, block: WorldBlock) -> None:
    """Raises unless the block follows the chain's head under the directory of its height."""
    if block.world_id != chain.world_id:
        raise WrongWorld("is another world", field="block.world_id", value=block.world_id)
    if block.height != chain.next_height:
        raise StateMismatch(f"the next height is {chain.next_height}", field="block.height", value=block.height)
    governing = chain.scheduled_at(block.height)
    for field, stated, expected in (
        ("prev_block_hash", block.prev_block_hash, chain.block_hash),
        ("prev_state_root", block.prev_state_root, chain.state_root),
        ("directory_epoch", block.directory_epoch, governing.directory.epoch),
        ("directory_hash", block.directory_hash, governing.directory_hash),
    ):
        if stated != expected:
            raise StateMismatch(f"height {block.height}: must be {expected}", field=f"block.{field}", value=stated)
    if block.term < chain.term or (chain.parameters.leaseless and block.term != 0):
        says = "a world without lease has term 0" if chain.parameters.leaseless else f"must be at least {chain.term}"
        raise StateMismatch(f"height {block.height}: {says}", field="block.term", value=block.term)
    if block.timestamp_ms < chain.time_ms:
        says = f"height {block.height}: must be at least {chain.time_ms}, the time of the block before"
        raise StateMismatch(says, field="block.timestamp_ms", value=block.timestamp_ms)


def _check_batch_fields(block: WorldBlock, batch: ActionBatch) -> None:
    """Raises unless the batch is the one that the block names, made by the same proposer for the same place."""
    for field in ("world_id", "height", "term", "proposer_id"):
        stated, expected = getattr(batch, field), getattr(block, field)
        if stated != expected:
            says = f"height {block.height}: the block says {expected}"
            raise StateMismatch(says, field=f"batch.{field}", value=stated)
    found = action_root_of(batch)
    if found != block.action_root:
        says = f"height {block.height}: the batch hashes to {found}"
        raise HashMismatch(says, field="block.action_root", value=block.action_root)


def _check_actions(batch: ActionBatch, parameters: Parameters, verified: Verified | None) -> None:
    """Raises unless the actions are within the limits, distinct, each right in itself, and the ones of the batch id.

    The size of a batch is that of its encoded actions, as ``ordering.batch`` measures it; the loop is one for all
    checks because encoding an action is what they all need.
    """
    if len(batch.actions) > parameters.max_batch_actions:
        says = f"{len(batch.actions)} actions exceed the limit of {parameters.max_batch_actions}"
        raise TooLarge(says, field="actions")
    size = sum([len(encode(action)) for action in batch.actions])
    if size > parameters.max_batch_bytes:
        says = f"{size} bytes of actions exceed the limit of {parameters.max_batch_bytes}"
        raise TooLarge(says, field="actions")
    envelope_ids = [envelope_id(action) for action in batch.actions]
    if batch.batch_id != content_id(encode_value(list(envelope_ids))):
        raise HashMismatch("is not the id of the ordered actions", field="batch_id", value=batch.batch_id)
    seen: dict[str, int] = {}
    for index, (action, signed_id) in enumerate(zip(batch.actions, envelope_ids, strict=True)):
        if seen.setdefault(action.action_id, index) != index:
            raise InvalidField("is in the batch twice", field=f"actions[{index}].action_id", value=action.action_id)
        _check_action(action, batch.world_id, index, verified is not None and verified(signed_id))


def _check_action(action: ActionEnvelope, world_id: str, index: int, known: bool) -> None:
    if action.world_id != world_id:
        raise WrongWorld("is another world", field=f"actions[{index}].world_id", value=action.world_id)
    if not known:
        with _naming(None, f"actions[{index}]"):
            check_envelope(action, world_id)


def _compare(block: WorldBlock, executed: WorldBlock) -> None:
    """Raises ExecutionMismatch that names the first field in which the block is not what execution gives."""
    stated = unsigned(block)
    for field in dataclasses.fields(WorldBlock):
        one, other = getattr(stated, field.name), getattr(executed, field.name)
        if one != other:
            raise ExecutionMismatch(block.height, field.name, stated=one, executed=other)


@contextmanager
def _naming(height: int | None, place: str) -> Iterator[None]:
    """Puts the height and the place in front of what an error from inside says."""
    try:
        yield
    except AgentWorldError as error:
        error.field = place if error.field is None else f"{place}.{error.field}"
        if height is not None:
            error.message = f"height {height}: {error.message}"
        raise
