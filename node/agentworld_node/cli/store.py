"""``agentworld store``: check and mend the data folder of a node, pin what must stay in it, free space in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from agentworld_node.cli.app import NOT_VERIFIED, OutputOption, app, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows
from agentworld_node.node_files import read_genesis
from agentworld_node.store.check import CheckReport
from agentworld_node.store.check import check as check_folder
from agentworld_node.store.inventory import Amount, Finding
from agentworld_node.store.repair import RepairReport
from agentworld_node.store.repair import repair as repair_folder
from agentworld_node.store.sources import Source, source_of

store_app = typer.Typer(
    help="Check and mend the data folder of a node, pin what must stay, free space. The node must not run.",
    no_args_is_help=True,
)
app.add_typer(store_app, name="store")

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
            return await repair_folder(data, genesis=document, sources=opened)
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
    if report.unsettled:
        facts.append(("written again by the next start", report.unsettled))
    print_pairs("Data folder", facts)
    _show_findings(report.findings, report.damaged + report.missing)
    for problem in report.index_problems[:SHOWN_FINDINGS]:
        console.print(f"[red]index[/] {escape(problem)}")
    if report.index_problem_count > SHOWN_FINDINGS:
        console.print(f"and {report.index_problem_count - SHOWN_FINDINGS} more problems of the index")
    if report.log_problem:
        console.print(f"[red]log[/] {escape(report.log_problem)}")
    if report.is_whole:
        console.print("[green]whole[/]: nothing is damaged, nothing is missing")
    elif not report.log_problem:
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
