"""``agentworld store``: check and mend the data folder of a node, pin what must stay in it, free space in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from agentworld_node.cli.app import FAILED, NOT_VERIFIED, OutputOption, app, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows
from agentworld_node.cli.sources import new_sandbox
from agentworld_node.node_files import read_genesis
from agentworld_node.storage.pins import Pin
from agentworld_node.store.check import CheckReport
from agentworld_node.store.check import check as check_folder
from agentworld_node.store.collect import CollectReport, collect
from agentworld_node.store.inventory import Amount, Finding
from agentworld_node.store.pinning import Pinned, add_pin, list_pins, remove_pin
from agentworld_node.store.repair import RepairReport
from agentworld_node.store.repair import repair as repair_folder
from agentworld_node.store.sources import Source, source_of

store_app = typer.Typer(
    help="Check and mend the data folder of a node, free space in it. The node must not run, but for pins.",
    no_args_is_help=True,
)
app.add_typer(store_app, name="store")
pins_app = typer.Typer(
    help="Pin what must stay whatever else is removed; works while the node runs, too.", no_args_is_help=True
)
store_app.add_typer(pins_app, name="pins")

DataOption = Annotated[
    Path, typer.Option("--data", help="The data folder of a node: the one with its log, blobs and index.")
]
SHOWN_FINDINGS = 20


@store_app.command()
def check(data: DataOption, output: OutputOption = Output.table) -> None:
    """Verify every blob by its hash, and that everything is there which the log says has to be. Changes nothing.

    Exit code 4 when something is damaged or missing, 1 when the folder cannot be checked, as while its node runs.
    """

    async def command() -> CheckReport:
        return check_folder(data)

    report = run(command, output=output)
    if output is Output.json:
        print_json(report.as_dict())
    else:
        _show_check(report)
    if not report.is_whole:
        raise typer.Exit(NOT_VERIFIED)


@store_app.command()
def repair(
    data: DataOption,
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", help="A node's URL, or another replica's data folder, to take blobs from. Repeatable."),
    ] = None,
    genesis: Annotated[
        Path | None, typer.Option("--genesis", help="The genesis document, where the folder has lost its own copy.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Mend what `store check` finds: from the log, from other replicas, and by executing blocks again.

    Damaged files are set aside first, in the folder blobs/quarantine. What is put in place hashes to what the log asks
    for, wherever it came from. Exit code 4 when something could not be mended; it is listed.
    """

    async def command() -> RepairReport:
        opened: list[Source] = []
        try:
            opened.extend(source_of(text) for text in sources or ())
            document = None if genesis is None else read_genesis(genesis)
            return await repair_folder(data, genesis=document, sources=opened, sandbox=new_sandbox())
        finally:
            for source in opened:
                await source.close()

    report = run(command, output=output)
    if output is Output.json:
        print_json(report.as_dict())
    else:
        print_pairs("Mended", [(f"from {name}" if name != "index rows" else name, count)
                               for name, count in report.mended.items()] or [("nothing", 0)])  # fmt: skip
        for note in report.notes:
            console.print(f"[yellow]note[/] {escape(note)}")
        _show_check(report.after)
    if not report.after.is_whole:
        raise typer.Exit(NOT_VERIFIED)


@store_app.command()
def gc(
    data: DataOption,
    max_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes", min=0, help="Remove no more than brings the blobs to this size."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Also remove damaged files that were set aside.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Free space: remove blobs that no block, retained snapshot or pin needs, and nothing else.

    Exit code 1 when more than --max-bytes is needed, or when it cannot be told what is needed.
    """

    async def command() -> CollectReport:
        return collect(data, max_bytes=max_bytes, dry_run=dry_run, quarantine=quarantine)

    report = run(command, output=output)
    if output is Output.json:
        print_json(report.as_dict())
    else:
        facts = [
            ("would be removed" if dry_run else "removed", _amount(report.removed)),
            ("left", _amount(report.left)),
            ("packs rewritten", report.packs_rewritten),
        ]
        if quarantine:
            facts.append(("of the quarantine", _amount(report.quarantine)))
        print_pairs("Space", facts)
        if report.is_over_limit:
            console.print(f"[yellow]over the limit[/]: all that is left is needed, more than {max_bytes} bytes")
    if report.is_over_limit:
        raise typer.Exit(FAILED)


@pins_app.command("add")
def add(
    target: Annotated[str, typer.Argument(metavar="HEIGHT|HASH", help="A block, a snapshot's manifest, or any blob.")],
    data: DataOption,
    note: Annotated[str, typer.Option("--note", help="Why it has to stay.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Keep a block with all its parts and its snapshot, a snapshot, or one blob, until the pin is removed."""

    async def command() -> Pinned:
        return add_pin(data, target, note=note)

    pinned = run(command, output=output)
    if output is Output.json:
        print_json(pinned.as_dict())
        return
    print_pairs("Pinned", [("what", _what(pinned)), ("hash", pinned.pin.blob_hash), ("blobs that stay", pinned.blobs)])
    if pinned.without_snapshot:
        console.print("[yellow]note[/] the snapshot of this block is no longer stored, and is not part of the pin")


@pins_app.command("remove")
def remove(
    target: Annotated[str, typer.Argument(metavar="HEIGHT|HASH", help="What was pinned.")],
    data: DataOption,
    output: OutputOption = Output.table,
) -> None:
    """Remove a pin; what only it kept may then go."""

    async def command() -> Pin:
        return remove_pin(data, target)

    pin = run(command, output=output)
    if output is Output.json:
        print_json({"hash": pin.blob_hash, "removed": True})
    else:
        console.print(f"{pin.blob_hash} is no longer pinned")


@pins_app.command("list")
def list_all(data: DataOption, output: OutputOption = Output.table) -> None:
    """List what is pinned."""

    async def command() -> list[Pinned]:
        return list_pins(data)

    pinned = run(command, output=output)
    if output is Output.json:
        print_json([item.as_dict() for item in pinned])
    elif not pinned:
        console.print("nothing is pinned")
    else:
        rows = [(_what(item), item.pin.blob_hash, item.blobs, item.pin.note or None) for item in pinned]
        print_rows(["What", "Hash", "Blobs", "Note"], rows)


def _what(pinned: Pinned) -> str:
    return f"{pinned.pin.kind} {pinned.pin.height}" if pinned.pin.height else pinned.pin.kind


def _show_check(report: CheckReport) -> None:
    facts: list[tuple[str, object]] = [
        ("height", report.height),
        ("snapshots", ", ".join(map(str, report.snapshots)) or "none"),
        ("stored", _amount(report.stored)),
        ("not needed", _amount(report.unreferenced)),
        ("set aside", _amount(report.quarantined)),
        ("damaged", report.damaged),
        ("missing", report.missing),
    ]
    if report.damaged_unreferenced:
        facts.append(("damaged, but not needed", report.damaged_unreferenced))
    if report.unsettled:
        facts.append(("written again by the next start", report.unsettled))
    if report.waiting:
        facts.append(("actions that wait for the next start", report.waiting))
    print_pairs("Data folder", facts)
    _show_findings(report.findings, report.damaged + report.missing + report.damaged_unreferenced)
    for problem in report.index_problems[:SHOWN_FINDINGS]:
        console.print(f"[red]index[/] {escape(problem)}")
    if report.index_problem_count > SHOWN_FINDINGS:
        console.print(f"and {report.index_problem_count - SHOWN_FINDINGS} more problems of the index")
    if report.pool_problem:
        console.print(f"[yellow]waiting actions[/] {escape(report.pool_problem)}; the next start sets the file aside")
    if report.log_problem:
        console.print(f"[red]log[/] {escape(report.log_problem)}")
    if report.votes_problem:
        console.print(f"[red]votes[/] {escape(report.votes_problem)}")
    if report.is_whole:
        console.print("[green]whole[/]: nothing is damaged, nothing is missing")
    elif report.is_mendable and not report.log_problem:
        console.print("mend it with `agentworld store repair`")


def _show_findings(findings: tuple[Finding, ...], count: int) -> None:
    if not findings:
        return
    rows = [(item.problem, item.kind, item.height or None, item.blob_hash) for item in findings[:SHOWN_FINDINGS]]
    print_rows(["Problem", "What", "Height", "Blob"], rows)
    if count > SHOWN_FINDINGS:
        console.print(f"and {count - SHOWN_FINDINGS} more; --output json lists up to a thousand")


def _amount(amount: Amount) -> str:
    return f"{amount.blobs} blobs, {amount.bytes} bytes"
