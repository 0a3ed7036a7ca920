"""The arithmetic of the benchmarks, and that all of them run: what they measure is worth what this is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import BENCHMARKS, chosen, run
from tests.bench.harness import Case, Setting, judge, pair_ratios, quartiles, run_case
from tests.bench.report import row, write

MACHINE = "a machine"


def a_case(**changes: object) -> Case:
    given = {
        "id": "B0",
        "case": "work",
        "peer": "another",
        "ours": lambda: 1.0,
        "theirs": lambda: 2.0,
        "goal": 2.0,
        **changes,
    }
    return Case(**given)  # type: ignore[arg-type]


def test_the_ratio_is_the_median_of_the_pairs_not_of_the_sides():
    pairs = [(1.0, 2.0), (10.0, 30.0), (2.0, 8.0)]
    result = judge(a_case(), pairs, wrong=None, machine=MACHINE)
    assert (result.ratio, result.iqr) == (3.0, (2.5, 3.5))
    assert (result.ours_seconds, result.peer_seconds) == (2.0, 8.0)


def test_speed_is_peer_by_ours_and_cost_is_ours_by_baseline():
    assert pair_ratios("speed", [(1.0, 4.0)]) == [4.0]
    assert pair_ratios("cost", [(1.0, 4.0)]) == [0.25]


def test_quartiles_of_seven_and_of_one():
    assert quartiles([7, 1, 6, 2, 5, 3, 4]) == (2.5, 4, 5.5)
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("kind", "goal", "met"),
    [("speed", 2.0, True), ("speed", 2.1, False), ("cost", 0.5, True), ("cost", 0.4, False), ("speed", None, None)],
)
def test_a_goal_is_reached_from_the_right_side(kind: str, goal: float | None, met: bool | None):
    assert judge(a_case(kind=kind, goal=goal), [(1.0, 2.0)], wrong=None, machine=MACHINE).met is met


@pytest.mark.parametrize("goal", [0.1, None])
def test_what_is_incorrect_scores_zero_and_is_never_met(goal: float | None):
    result = judge(a_case(goal=goal), [(1.0, 2.0)], wrong="a record is missing", machine=MACHINE)
    assert (result.ratio, result.iqr, result.met, result.correct) == (0.0, (0.0, 0.0), False, False)
    assert "a record is missing" in row(result)


def test_pairs_alternate_and_the_check_comes_last(tmp_path: Path):
    order: list[str] = []

    def side(name: str):
        def work() -> float:
            order.append(name)
            return 1.0

        return work

    def check() -> None:
        order.append("check")

    case = a_case(ours=side("A"), theirs=side("B"), check=check, ceiling=lambda: 0.5, ceiling_name="the disk")
    result = run_case(case, Setting(tmp_path, quick=True), machine=MACHINE)
    assert order == ["A", "B", "A", "B", "check"]
    assert (result.pairs, result.of_ceiling, result.ceiling) == (2, 0.5, "the disk")


def test_rows_are_written_with_all_their_fields(tmp_path: Path):
    write([judge(a_case(), [(1.0, 2.0)], wrong=None, machine=MACHINE)], tmp_path / "build" / "bench.json")
    (found,) = json.loads((tmp_path / "build" / "bench.json").read_text())
    expected = {"id", "case", "ratio", "iqr", "goal", "met", "peer", "correct", "machine"}
    assert expected <= set(found)
    assert (found["iqr"], found["met"], found["machine"]) == ([2.0, 2.0], True, MACHINE)


def test_a_choice_is_by_name_and_an_unknown_name_is_told():
    assert chosen("") == list(BENCHMARKS)
    assert chosen("b4, WHOLE,B1") == ["B1", "B4", "whole"]
    with pytest.raises(SystemExit, match="B99"):
        chosen("B99")


def test_a_smoke_run_is_correct(tmp_path: Path):
    results = list(run(["B1", "B14"], Setting(tmp_path, quick=True)))
    assert [result.case for result in results if not result.correct] == []
    assert {result.id for result in results} == {"B1", "B14"}
