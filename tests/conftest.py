"""What all tests share: markers by folder, time limits by kind, reproducible randomness.

Nothing here starts anything; the fixtures of a kind of test live in the `conftest.py` of its folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent

# Folder -> seconds a test may take. A limit is there to end a hang with a traceback, not to judge speed.
TIME_LIMITS = {"integration": 300, "simulation": 300, "chart": 120, "cluster": 900, "e2e": 900}

hypothesis.settings.register_profile("local", deadline=None, print_blob=True)
# In CI a failure must be the fault of the change, so every run draws the same examples.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--sim-seeds", type=int, default=20, metavar="N", help="simulate seeds 0 to N-1 (default: 20)")
    group.addoption("--sim-seed", type=int, default=None, metavar="SEED", help="simulate this seed only")
    group = parser.getgroup("boxes")
    group.addoption("--box", metavar="NUMBER", help="only the tests that show this box of the specification: S5.1")
    group = parser.getgroup("determinism")
    group.addoption("--histories", type=int, default=100, metavar="N", help="compare seeds 0 to N-1 (default: 100)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `sim_seed` runs once for each seed, and its name says which."""
    if "sim_seed" in metafunc.fixturenames:
        only = metafunc.config.getoption("--sim-seed")
        metafunc.parametrize("sim_seed", range(metafunc.config.getoption("--sim-seeds")) if only is None else [only])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (box := config.getoption("--box")) is not None:
        shown = [item for item in items if any(mark.args[0] == box for mark in item.iter_markers("box"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in shown])
        items[:] = shown
    for item in items:
        kind = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if kind in TIME_LIMITS:
            item.add_marker(kind)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIME_LIMITS[kind]))
