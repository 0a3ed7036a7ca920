"""What is the same for everybody is computed once: encodings and signatures of one message, however many receive it."""

from __future__ import annotations

import pytest

from tests.simulation.shortcuts import install


@pytest.fixture(autouse=True)
def shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch.setattr)
