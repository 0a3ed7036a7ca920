"""Runs helm on our chart and reads what it renders."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.crd import ROOT

CHART = ROOT / "charts" / "agent-world"
RELEASE, NAMESPACE = "r", "agents"
NAME = f"{RELEASE}-agent-world"
# Name of a values file in ci/ without its suffix; empty for the chart's own values.
VALUES = ["", *sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))]

Manifest = dict[str, Any]


@cache
def program() -> list[str]:
    """The helm to use: the one that HELM names, that of the local cluster, or that of the PATH; fails without any."""
    if named := os.environ.get("HELM"):
        return [named]
    ours = [str(ROOT / "hack" / "cluster" / "cluster"), "helm"]
    if subprocess.run([*ours, "version"], capture_output=True, check=False).returncode == 0:
        return ours
    if found := shutil.which("helm"):
        return [found]
    pytest.fail("no helm here: run `hack/cluster/cluster build`, or name one with HELM=/path/to/helm", pytrace=False)


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs helm and returns what it said, whether it succeeded or not."""
    return subprocess.run([*program(), *words], capture_output=True, text=True, check=False)


def arguments(values: str, *settings: str) -> list[str]:
    chosen = ["--values", str(CHART / "ci" / f"{values}-values.yaml")] if values else []
    return [*chosen, *(word for setting in settings for word in ("--set", setting))]


@cache
def render(values: str = "", *settings: str) -> list[Manifest]:
    """Returns every object of the chart, hooks and CRDs included."""
    result = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments(values, *settings))
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.load_all(result.stdout, Loader=_Loader) if document]


def refusal(*settings: str) -> str:
    """Returns why helm refuses to render with these settings; empty when it does not."""
    result = helm("template", RELEASE, str(CHART), *arguments("", *settings))
    return result.stderr if result.returncode else ""


def only(objects: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Returns the one object of a kind, or of a kind and name."""
    found = [o for o in objects if o["kind"] == kind and (not name or o["metadata"]["name"] == name)]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} {name}"
    return found[0]


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [o for o in objects if o["kind"] in kinds]


def pods(objects: list[Manifest]) -> dict[str, Manifest]:
    """Returns every pod spec by the name of what it belongs to."""
    specs = {o["metadata"]["name"]: o["spec"] for o in of_kind(objects, "Pod")}
    specs |= {o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in of_kind(objects, "Deployment")}
    return specs


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


# libyaml where it is there: the definitions are long.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
