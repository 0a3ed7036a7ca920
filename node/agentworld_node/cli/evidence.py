"""``agentworld evidence``: the proofs that a validator voted twice, listed, kept in a file, checked without a node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_core.codec import encode
from agentworld_core.consensus.evidence import accused, evidence_id, phase_name
from agentworld_core.errors import AgentWorldError, InvalidField, NotFound
from agentworld_core.ids import check_hash
from agentworld_core.ledger.evidence_file import EvidenceFile, check_evidence_file
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.messages import Equivocation
from agentworld_node.cli.app import OutputOption, Target, app, client_command, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, short
from agentworld_node.cli.proofs import check_under_keys, keys_of, read_proof, with_directories
from agentworld_node.cli.sources import open_source

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
            file = await with_directories(matching[0], client) if save is not None else None
        if save is not None and file is not None:
            await asyncio.to_thread(_write, save, encode(file))
        return matching[0]

    facts = _facts(run(command, output=target.output)) | ({} if save is None else {"file": str(save)})
    _print("Evidence", facts, target.output)


@evidence_app.command("check")
def check_evidence(
    file: Annotated[
        Path,
        typer.Argument(
            help="A file of `agentworld evidence show --save`, or evidence[].proof of a status; - is stdin."
        ),
    ],
    genesis: Annotated[
        str | None, typer.Option("--genesis", help="Hash of the genesis you trust; without it any is taken.")
    ] = None,
    public_key: Annotated[
        list[str] | None,
        typer.Option(help="For a proof of a status: a public key of the validator, 64 hex digits; may be repeated."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "-s",
            help="For a proof of a status: an address, a data folder or an archive to read the directories from.",
        ),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Check both signatures of a proof, and that the votes contradict each other, without believing any node.

    A saved file brings the directories that say whose keys they are. For a proof of a status they are read from a
    source, or the validator's public keys are given. Exit code 4 when it does not prove what it says.
    """

    async def command() -> dict[str, Any]:
        if genesis is not None:
            check_hash(genesis, field="--genesis")
        keys = keys_of(public_key or [])
        found = await asyncio.to_thread(read_proof, file)
        _check_options(found, {"--public-key": bool(keys), "--source": bool(source), "--genesis": bool(genesis)})
        if isinstance(found, Equivocation) and keys:
            with _proving(found):
                check_under_keys(found, keys)
            return _facts(found) | {"world": found.first.world_id, "epoch": found.first.directory_epoch}
        if isinstance(found, Equivocation):
            async with open_source(source or "") as place:
                found = await with_directories(found, place)
        return _judged(found, genesis, said_by="file" if source is None else "source")

    _print("Proven: it voted twice", run(command, output=output), output)


def _check_options(found: Equivocation | EvidenceFile, given: Mapping[str, bool]) -> None:
    """Raises InvalidField unless exactly one thing says whose keys the messages are signed with."""
    if isinstance(found, EvidenceFile):
        for option in ("--public-key", "--source"):
            if given[option]:
                raise InvalidField("says nothing here: the file brings its own directories", field=option)
    elif given["--public-key"]:
        for option in ("--source", "--genesis"):
            if given[option]:
                raise InvalidField(f"says nothing beside {option}; give one of them", field="--public-key")
    elif not given["--source"]:
        raise InvalidField(
            "holds both signed messages and nobody's keys",
            field="FILE",
            remedy="give --public-key of the validator, or --source to read the directories of its world",
        )


def _judged(file: EvidenceFile, genesis: str | None, *, said_by: str) -> dict[str, Any]:
    with _proving(file.evidence):
        directory = check_evidence_file(file, trusted_genesis=genesis)
    unpinned = "" if genesis else f"  (as the {said_by} says; pin it with --genesis)"
    return _facts(file.evidence) | {"epoch": directory.epoch, "genesis": genesis_hash(file.genesis) + unpinned}


@contextmanager
def _proving(item: Equivocation) -> Iterator[None]:
    try:
        yield
    except AgentWorldError as error:
        height = item.first.height
        raise VerificationFailed(f"nothing is proven: {error}", height=height, cause_code=error.code) from error


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


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidField(f"cannot be written: {error}", field="--save", value=path) from error
