"""The auditor's commands: verify, diff, export and import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from agentworld_client.archive import ArchiveSource
from agentworld_client.changes import Changes, KeyChange, changes_between
from agentworld_client.export import ExportReport
from agentworld_client.export import export as export_archive
from agentworld_client.inspector import check_trusted
from agentworld_client.verifier import BundleStore, VerificationReport, Verifier
from agentworld_core.ids import is_hash
from agentworld_node.archive_import import import_archive
from agentworld_node.cli.app import OutputOption, Target, app, client_command, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, short, value_text
from agentworld_node.cli.sources import SourceArgument, SourceOption, new_sandbox, open_source, progress_bar


def _genesis_hash(text: str | None) -> str | None:
    if text is not None and not is_hash(text):
        raise typer.BadParameter("must be a content id: 64 lower-case hex digits")
    return text


GenesisHash = Annotated[
    str | None,
    typer.Option(
        "--genesis-hash",
        "--genesis",
        metavar="HASH",
        callback=_genesis_hash,
        help="Hash of the genesis you trust; without it the one there.",
    ),
]


@client_command(app, source=SourceArgument)
def verify(
    target: Target,
    *,
    replay: Annotated[
        bool, typer.Option("--replay", help="Also execute every batch again and compare every root.")
    ] = False,
    genesis_hash: GenesisHash = None,
    start: Annotated[
        int,
        typer.Option("--from", min=1, help="First height to check; what is before it is taken from a signed snapshot."),
    ] = 1,
    up_to: Annotated[
        int | None, typer.Option("--to", "--height", min=0, help="Last height to check; default: the newest.")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Folder to keep fetched blocks in.")] = None,
) -> None:
    """Check every hash, link, signature and certificate of a world; with --replay also every state root.

    Trusts nothing but the genesis document: give its hash with --genesis-hash. Exit codes: 0 everything is right, 4 the
    first wrong height is named, with the object and field, and with --replay the first action whose result is another;
    3 no answer, or the height is not there yet; 1 the source cannot be read; 2 wrong usage.
    """

    async def command() -> VerificationReport:
        async with open_source(target.source) as place:
            verifier = Verifier(
                await place.genesis(),
                replay=replay,
                store=None if store is None else BundleStore(store),
                trusted_genesis=genesis_hash,
                sandbox=new_sandbox() if replay else None,
            )
            with progress_bar("replaying" if replay else "verifying", target.output) as advance:
                report = await verifier.verify(place, start=start, up_to=up_to, progress=advance)
            if isinstance(place, ArchiveSource):
                place.check_rest(verifier.chain)
            return report

    print_report(run(command, output=target.output), target.output, pinned=genesis_hash is not None)


def print_report(report: VerificationReport, output: Output, *, pinned: bool) -> None:
    """Prints what was proved."""
    if output is Output.json:
        print_json(report.as_dict())
        return
    replay = report.replayed
    how = "hashes, links, signatures, certificates" + (", every batch executed again" if replay else "")
    print_pairs(
        "Verified and replayed" if replay else "Verified",
        [
            ("world", report.world_id),
            ("genesis", report.genesis_hash + ("" if pinned else "  (as it is there; pin it: --genesis-hash)")),
            ("governance keys", ", ".join(report.governance_keys)),
            ("heights", f"{report.from_height} to {report.height}"),
            ("checked", how),
            ("actions", report.actions),
            ("directory epoch", report.epoch),
            ("signed by", ", ".join(report.signers) or "nobody: no block was checked"),
            ("state root", report.state_root + ("" if replay else "  (as the quorum signed it; --replay proves it)")),
            ("blocks", f"{report.fetched_blocks} read, {report.stored_blocks} from the store"),
        ],
    )


@client_command(app, source=SourceOption)
def diff(
    target: Target,
    start: Annotated[int, typer.Argument(metavar="HEIGHT", min=0, help="The state after this height; 0: the genesis.")],
    end: Annotated[int, typer.Argument(metavar="HEIGHT", min=0, help="The state to compare it with.")],
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show counters and used nonces (JSON always has them).")
    ] = False,
    genesis_hash: GenesisHash = None,
) -> None:
    """Show what changed in the state between two heights, and the last event that touched each key.

    Both states are rebuilt from journals whose hashes, certificates and state roots are checked; the source is not
    believed. Exit code 4 names the first height that is wrong.
    """

    async def command() -> Changes:
        async with open_source(target.source) as place:
            genesis = await check_trusted(place, genesis_hash)
            with progress_bar("replaying journals", target.output) as advance:
                return await changes_between(place, genesis, start, end, progress=advance)

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found.as_dict())
        return
    shown = [item for item in found.keys if everything or item.group not in ("meta", "nonce")]
    console.print(f"[bold]Height {start} to {end}[/]: state root {short(found.from_root)} to {short(found.to_root)}")
    if shown:
        columns = ["", "Key", "What", "Events", "Last event", "Height", "Action"]
        print_rows(columns, [_change_row(item) for item in shown])
    elif not found.keys:
        console.print("nothing changed")
    hidden = len(found.keys) - len(shown)
    if hidden:
        console.print(f"[dim]and {hidden} keys of counters and used nonces; --all shows them[/]")


@client_command(app, source=SourceOption)
def export(
    target: Target,
    file: Annotated[Path, typer.Argument(help="The archive to write; it must not exist.")],
    *,
    height: Annotated[int | None, typer.Option("--height", min=0, help="Last height; default: the newest.")] = None,
    genesis_hash: GenesisHash = None,
) -> None:
    """Write a world up to a height into one archive, replaying it, so that only what is right is exported.

    The archive is a plain tar file with fixed bytes: the same blocks and certificates give the same hash.
    """

    async def command() -> ExportReport:
        async with open_source(target.source) as place:
            with progress_bar("exporting", target.output) as advance:
                return await export_archive(
                    place,
                    file,
                    height=height,
                    trusted_genesis=genesis_hash,
                    sandbox=new_sandbox(),
                    progress=advance,
                )

    report = run(command, output=target.output)
    if target.output is Output.json:
        print_json(report.as_dict())
    else:
        print_pairs("Exported", [(name.replace("_", " "), value) for name, value in report.as_dict().items()])


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="An archive that `agentworld export` has written.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="The data folder to make; it must be new or empty.")],
    genesis_hash: GenesisHash = None,
    output: OutputOption = Output.table,
) -> None:
    """Make the data folder of a node from an archive; everything is verified and replayed before it is put in place.

    The folder has no votes: start a validator from it only with a signing key that has never voted.
    """

    async def command() -> VerificationReport:
        with progress_bar("importing", output) as advance:
            return await import_archive(
                file, data, trusted_genesis=genesis_hash, sandbox=new_sandbox(), progress=advance
            )

    print_report(run(command, output=output), output, pinned=genesis_hash is not None)
    if output is not Output.json:
        console.print(f"a node starts from it with [bold]data_folder[/] {escape(str(data))}")


def _change_row(item: KeyChange) -> tuple[object, ...]:
    sign = {"added": Text("+", "green"), "removed": Text("-", "red"), "changed": Text("~", "yellow")}[item.change]
    last = item.last
    action = short(last.action_id) if last.action_id else None
    return sign, item.key, _what(item), item.events, last.kind, last.height, action


def _what(item: KeyChange) -> str:
    """Returns the fields that differ, or the whole value of what was added or removed."""
    if isinstance(item.before, dict) and isinstance(item.after, dict):
        names = [name for name in item.after if item.before.get(name) != item.after[name]]
        return ", ".join(f"{name}: {_brief(item.before.get(name))} → {_brief(item.after[name])}" for name in names)
    value = item.after if item.before is None else item.before
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_brief(part)}" for name, part in value.items())
    return _brief(value)


def _brief(value: Any) -> str:
    return value_text(value, limit=66)
