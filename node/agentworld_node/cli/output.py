"""Prints for people or for programs: tables and progress on a terminal, JSON with ``--output json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentworld_core.errors import AgentWorldError

PIPE_WIDTH = 160
"""Columns where the output is not a terminal: enough for a hash and its name on one line."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Output(StrEnum):
    """The forms of output."""

    table = "table"
    json = "json"


def print_json(value: Any) -> None:
    """Prints one JSON document on one line of standard output."""
    sys.stdout.write(json.dumps(value, separators=(",", ":"), default=str) + "\n")
    sys.stdout.flush()


def print_pairs(title: str, pairs: Iterable[tuple[str, object]]) -> None:
    """Prints a two-column table of facts."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(_cell(name), _cell(value))
    console.print(table)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Prints a table with a header; says so when it is empty."""
    console.print(rows_table(columns, rows, title=title))


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """Returns a table with a header; a cell that is a Text keeps its style."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def print_error(error: AgentWorldError, output: Output) -> None:
    """Prints an error on standard error: one sentence, or its JSON document."""
    if output is Output.json:
        sys.stderr.write(json.dumps({"error": error.as_dict()}, separators=(",", ":")) + "\n")
    else:
        errors.print(Text.assemble(("error", "bold red"), " ", (f"({error.code})", "dim"), f" {error}"))


def value_text(value: Any, *, limit: int = 400) -> str:
    """Returns data as JSON on one line, cut to a length that a table can bear; text stays as it is."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short(hash_text: str | None) -> str:
    """Returns the first twelve digits of a hash, enough to compare by eye."""
    return hash_text[:12] if hash_text else "-"


def _cell(value: object) -> Text:
    """Returns a cell with the text as it is: what agents and nodes say is no markup."""
    return value if isinstance(value, Text) else Text("-" if value is None else str(value))
