"""``agentworld evidence``: the proofs that a validator voted twice, listed, kept in a file, checked without a node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import accused, evidence_id, phase_name
from agentworld_core.errors import AgentWorldError, InvalidField, NotFound
from agentworld_core.ids import check_hash
from agentworld_core.ledger.evidence_file import EvidenceFile, check_evidence_file
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.messages import Equivocation
from agentworld_node.cli.app import OutputOption, Target, app, client_command, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, short

FILE_LIMIT = 64 * 1024 * 1024

evidence_app = typer.Typer(help="Proofs that a validator voted twice.", no_args_is_help=True)
app.add_typer(evidence_app, name="evidence")


@client_command(evidence_app, "list")
def list_evidence(target: Target) -> None:
    """List the proofs that a node holds."""

    async def command() -> list[Equivocation]:
        async with GatewayClient(target.gateway) as client:
            return list((await client.evidence()).items)

    found = [_facts(item) for item in run(command, output=target.output)]
    if target.output is Output.json:
        print_json(found)
    elif not found:
        console.print("no validator is known to have voted twice")
    else:
        rows = [
            [item["validator"], item["height"], item["round"], item["phase"], short(item["first"]),
             short(item["second"]), item["hash"]]
            for item in found
        ]  # fmt: skip
        print_rows(["Validator", "Height", "Round", "Phase", "One vote", "Other vote", "Evidence"], rows)


@client_command(evidence_app, "show")
def show_evidence(
    target: Target,
    evidence: Annotated[str, typer.Argument(help="Content id of the proof, or its first digits.", metavar="HASH")],
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the proof with the world's directories to this file.")
    ] = None,
) -> None:
    """Show one proof; with --save keep it in a file that `agentworld evidence check` needs no node for."""

    async def command() -> Equivocation:
        async with GatewayClient(target.gateway) as client:
            matching = [item for item in (await client.evidence()).items if evidence_id(item).startswith(evidence)]
            if len(matching) != 1:
                says = "several proofs begin with these digits" if matching else "the node holds no such proof"
                raise NotFound(says, field="HASH", value=evidence, remedy="see agentworld evidence list")
            genesis = await client.genesis()
            epochs = range(genesis.directory.epoch + 1, matching[0].first.directory_epoch + 1)
            directories = [await client.directory(epoch) for epoch in epochs]
        if save is not None:
            file = EvidenceFile(genesis=genesis, directories=tuple(directories), evidence=matching[0])
            await asyncio.to_thread(_write, save, encode(file))
        return matching[0]

    facts = _facts(run(command, output=target.output)) | ({} if save is None else {"file": str(save)})
    _print("Evidence", facts, target.output)


@evidence_app.command("check")
def check_evidence(
    file: Annotated[Path, typer.Argument(help="A file that `agentworld evidence show --save` has written.")],
    genesis: Annotated[
        str | None, typer.Option("--genesis", help="Hash of the genesis you trust; without it the file's is taken.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Check both signatures of a proof, and that the votes contradict each other, without asking any node.

    Exit code 4 when the file does not prove what it says.
    """

    async def command() -> dict[str, Any]:
        if genesis is not None:
            check_hash(genesis, field="--genesis")
        found = _read(file)
        try:
            directory = check_evidence_file(found, trusted_genesis=genesis)
        except AgentWorldError as error:
            height = found.evidence.first.height
            raise VerificationFailed(f"nothing is proven: {error}", height=height, cause_code=error.code) from error
        return _facts(found.evidence) | {
            "epoch": directory.epoch,
            "genesis": genesis_hash(found.genesis) + ("" if genesis else "  (as the file says; pin it with --genesis)"),
        }

    _print("Proven: it voted twice", run(command, output=output), output)


def _facts(item: Equivocation) -> dict[str, Any]:
    first, second = item.first, item.second
    return {
        "hash": evidence_id(item),
        "validator": accused(item),
        "height": first.height,
        "round": f"{first.term}.{first.attempt}",
        "phase": phase_name(item),
        "first": first.block_hash,
        "second": second.block_hash,
        "keys": sorted({first.key_id, second.key_id}),
    }


def _print(title: str, facts: dict[str, Any], output: Output) -> None:
    if output is Output.json:
        print_json(facts)
        return
    shown = {**facts, "first": facts["first"] or "for none", "keys": ", ".join(facts["keys"])}
    print_pairs(title, [(name.replace("_", " "), value) for name, value in shown.items()])


def _read(path: Path) -> EvidenceFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidField(f"cannot be read: {error}", field="FILE", value=path) from error
    return decode(EvidenceFile, data, limit=FILE_LIMIT)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidField(f"cannot be written: {error}", field="--save", value=path) from error
