"""Begins at a snapshot instead of at the genesis: what a quorum has signed there must still prove itself."""

from __future__ import annotations

from agentworld_client.errors import VerificationFailed
from agentworld_client.source import WorldSource
from agentworld_core.errors import AgentWorldError
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_core.messages import BlockBundle, Directory, Genesis


def is_missing(error: AgentWorldError) -> bool:
    """True when the error says that something is not there, whoever says it."""
    return error.code.endswith("not_found")


async def chain_before(source: WorldSource, genesis: Genesis, height: int) -> ChainState:
    """Returns the verified chain at the newest snapshot at or below the height, at the genesis when that is gone.

    Raises VerificationFailed for a snapshot that is there and wrong; what the source raises passes through.
    """
    place = height - height % genesis.parameters.snapshot_interval
    found = await source.blocks(place, limit=1) if place > 0 else ()
    if not found:
        return chain_from_genesis(genesis)
    bundle = found[0]
    try:
        blobs = await fetch_snapshot(source, bundle)
        directories = await fetch_directories(source, bundle.block.directory_epoch + 1)
        return chain_from_snapshot(genesis, bundle, directories=directories, fetch=blobs.__getitem__)
    except AgentWorldError as error:
        if is_missing(error):
            return chain_from_genesis(genesis)
        says = f"the snapshot is wrong: {error}"
        raise VerificationFailed(says, height=place, cause_code=error.code, place=error.field) from error


async def fetch_snapshot(source: WorldSource, bundle: BlockBundle) -> dict[str, bytes]:
    """Returns the manifest and the chunks of a block's snapshot by content id, nothing when it has none."""
    reference = bundle.block.snapshot_ref
    if reference is None:
        return {}
    blobs = {reference: await source.blob(reference)}
    for chunk in load_manifest(reference, blobs.__getitem__).chunks:
        if chunk.content_hash not in blobs:
            blobs[chunk.content_hash] = await source.blob(chunk.content_hash)
    return blobs


async def fetch_directories(source: WorldSource, last: int) -> list[Directory]:
    """Returns the directories from epoch 1 to at most the last one asked for, as far as there are any."""
    found: list[Directory] = []
    for epoch in range(1, last + 1):
        try:
            found.append(await source.directory(epoch))
        except AgentWorldError as error:
            if is_missing(error):
                break
            raise
    return found
