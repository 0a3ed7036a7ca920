"""What the benchmarks print and write: the machine, a table, and ``bench.json``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import MAX_DRIFT, LeftOut, Result

PEER_PACKAGES = ("cbor2", "msgspec", "lmdb", "blake3", "cryptography", "PyNaCl", "wasmtime")


def machine_line() -> str:
    """Returns processor, cores, kernel, versions and load in one line."""
    versions = [f"{name} {_version(name)}" for name in PEER_PACKAGES]
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout.split()[-1:]
    parts = [
        _processor(),
        f"{os.cpu_count()} cores",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        *versions,
        f"SQLite {sqlite3.sqlite_version}",
        f"git {git[0] if shutil.which('git') and git else 'missing'}",
        "load {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    ]
    return ", ".join(parts)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def headline() -> str:
    """Returns the line above the rows of the table."""
    return f"{'':5}{'case':50} {'ratio':>8} {'quartiles':>15} {'goal':>8}  {'met':10} peer"


def row(result: Result) -> str:
    """Returns a result as a line, and lines below it for what else there is to say."""
    sign = "≥" if result.kind == "speed" else "≤"
    goal = "-" if result.goal is None else f"{sign}{result.goal:g}"
    met = {True: "yes", False: "no" if result.correct else "INCORRECT", None: "-"}[result.met]
    quartiles = f"{result.iqr[0]:.2f}..{result.iqr[1]:.2f}"
    lines = [f"{result.id:5}{result.case:50} {result.ratio:8.2f} {quartiles:>15} {goal:>8}  {met:10} {result.peer}"]
    ours, theirs = (_figure(value, result.unit) for value in (result.ours_seconds, result.peer_seconds))
    figures = f"{ours}, peer {theirs}"
    if result.of_ceiling is not None:
        figures += f"; {result.of_ceiling:.2f} of the ceiling ({result.ceiling})"
    if result.drift > MAX_DRIFT:
        figures += f"; unsteady: the machine drifted {result.drift:.1f}x in every run"
    if result.wrong:
        figures += f"; wrong: {result.wrong}"
    return "\n".join([*lines, f"{'':5}  {figures}"])


def left_out(item: LeftOut) -> str:
    """Returns the line of a comparison that was not made."""
    return f"{item.id:5}{item.case:50} left out: {item.reason}"


def _figure(value: float, unit: str) -> str:
    """Returns a cost in a unit in which it is easy to read."""
    if unit == "s":
        for limit, factor, smaller in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
            if value < limit:
                return f"{value * factor:.3g} {smaller}"
    return f"{value:.3g} {unit}"


def write(results: Sequence[Result], path: Path) -> None:
    """Writes the rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n", encoding="utf-8")
