"""A chain and a data folder that holds it, made once, copied for each test."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.unit.core.ledger.chains import Chain
from tests.unit.node.store.folders import fill, long_chain


@pytest.fixture(scope="package")
def chain() -> Chain:
    """13 blocks with snapshots at 3, 6, 9 and 12; nobody changes it."""
    return long_chain()


@pytest.fixture(scope="package")
def made_folder(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Path:
    """A data folder with all of the chain that nobody changes; the last two snapshots are retained."""
    folder = tmp_path_factory.mktemp("made") / "data"
    asyncio.run(fill(folder, chain, retain=2))
    return folder


@pytest.fixture
def folder(tmp_path: Path, made_folder: Path) -> Path:
    """A data folder of the test's own."""
    return Path(shutil.copytree(made_folder, tmp_path / "data"))
