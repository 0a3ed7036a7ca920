"""The commands behind `make simulate`: what they print last, and their exit status."""

from __future__ import annotations

import re

import pytest

from tests.simulation.__main__ import main

SUMMARY = re.compile(r"simulate: (ok|violations=\d+) seeds=\d+ events=\d+ seconds=[\d.]+ events_per_second=\d+")


def last_line(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Everything printed, and its last line."""
    printed = capsys.readouterr().out
    return printed, printed.rstrip().splitlines()[-1]


def test_many_seeds_end_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--from", "40"]) == 0
    printed, summary = last_line(capsys)
    assert SUMMARY.fullmatch(summary)
    assert " ok seeds=3 " in summary
    assert "reached: " in printed


def test_a_violation_names_its_seed_and_how_to_make_it_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "0", "--bug", "counts-a-vote-twice"]) == 1
    printed, summary = last_line(capsys)
    assert "VIOLATION seed 0: I3: " in printed
    assert "make simulate SEED=0 BUG=counts-a-vote-twice SHRINK=1" in printed
    assert " violations=1 seeds=1 " in summary


def test_a_bug_that_nobody_planted_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--seed", "0", "--bug", "is-late"])
    assert exited.value.code == 2
    says = capsys.readouterr().err
    assert "no bug is called is-late" in says
    assert "counts-a-vote-twice" in says


@pytest.mark.parametrize("words", [("--bug", "counts-a-vote-twice"), ("--shrink",), ("--trace", "1")])
def test_what_is_for_one_seed_is_refused_for_many(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--seeds", "3", *words])
    assert exited.value.code == 2
    assert "name it with --seed" in capsys.readouterr().err
