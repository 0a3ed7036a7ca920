"""hack/generate-traceability: which marks it finds, what it refuses, and the page it makes."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

COMMAND = Path(__file__).parents[2] / "hack" / "generate-traceability"
BOXES = """
["S1.1"]
title = "Names"
topics = "the topics are these"
keys = "and the keys these"

["S1.2"]
title = "Envelopes"
"""
WHOLE = """
import pytest


@pytest.mark.box("S1.1", "topics", "keys")
@pytest.mark.box("S1.2")
def test_all():
    pass
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command, at work in a folder of its own."""
    loader = SourceFileLoader("generate_traceability", str(COMMAND))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, loader.name, module)
    loader.exec_module(module)
    (tmp_path / "tests").mkdir()
    (tmp_path / "docs").mkdir()
    for name, value in {
        "ROOT": tmp_path,
        "BOXES": tmp_path / "tests" / "boxes.toml",
        "PAGE": tmp_path / "docs" / "traceability.md",
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, test: str, *words: str, boxes: str = BOXES) -> None:
    """Runs the command for these boxes and one file of tests."""
    tool.BOXES.write_text(boxes)
    (tool.ROOT / "tests" / "test_it.py").write_text(test)
    monkeypatch.setattr(sys, "argv", ["generate-traceability", *words])
    tool.main()


def found(tool: ModuleType, test: str) -> list[tuple[str, tuple[str, ...], str]]:
    path = tool.ROOT / "tests" / "test_it.py"
    path.write_text(test)
    return [(mark.box, mark.cases, mark.test) for mark in tool.marks_of(path)]


class TestMarks:
    def test_of_modules_classes_functions_and_parameters_are_found(self, tool: ModuleType) -> None:
        source = """
import pytest

pytestmark = [pytest.mark.asyncio, pytest.mark.box("S1")]


@pytest.mark.box("S2", "one", "two")
class TestSome:
    @pytest.mark.box("S3", "three")
    @pytest.mark.box("S4")
    def test_method(self):
        pass

    @pytest.mark.box("S5")
    async def test_asynchronous(self):
        pass


@pytest.mark.parametrize("value", [pytest.param(1, marks=pytest.mark.box("S6", "six")), 2])
def test_function(value):
    pass
"""
        file = "tests/test_it.py"
        assert found(tool, source) == [
            ("S1", (), file),
            ("S3", ("three",), f"{file}::TestSome::test_method"),
            ("S4", (), f"{file}::TestSome::test_method"),
            ("S5", (), f"{file}::TestSome::test_asynchronous"),
            ("S2", ("one", "two"), f"{file}::TestSome"),
            ("S6", ("six",), f"{file}::test_function"),
        ]

    def test_a_file_without_marks_has_none(self, tool: ModuleType) -> None:
        assert found(tool, "import pytest\n\n\n@pytest.mark.slow('box')\ndef test_it():\n    pass\n") == []

    @pytest.mark.parametrize("given", ["NUMBER", '"S1.1", CASE', 'f"S{1}"', "1", "*BOXES", "", 'number="S1.1"'])
    def test_what_is_no_text_is_refused_with_its_place(self, tool: ModuleType, given: str) -> None:
        with pytest.raises(SystemExit, match=r"^tests/test_it\.py:4: a box is named by texts"):
            found(tool, f"import pytest\n\n\n@pytest.mark.box({given})\ndef test_it():\n    pass\n")


class TestCases:
    @pytest.mark.parametrize(
        ("mark", "says"),
        [
            ('"S9.9"', "tests/test_it.py:9: tests/boxes.toml has no S9.9 'title'"),
            ('"S9.9", "topics"', "tests/test_it.py:9: tests/boxes.toml has no S9.9 'topics'"),
            ('"S1.1", "typo"', "tests/test_it.py:9: tests/boxes.toml has no S1.1 'typo'"),
        ],
    )
    def test_an_unknown_box_or_case_is_refused_with_its_place(
        self, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, mark: str, says: str
    ) -> None:
        with pytest.raises(SystemExit) as refused:
            run(tool, monkeypatch, WHOLE + f"@pytest.mark.box({mark})\ndef test_wrong():\n    pass\n")
        assert str(refused.value) == says
        assert not tool.PAGE.exists()

    def test_what_no_test_shows_is_told_with_its_text(self, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SystemExit) as refused:
            run(tool, monkeypatch, 'import pytest\n\npytestmark = pytest.mark.box("S1.1", "topics")\n')
        assert str(refused.value).splitlines() == [
            "no test shows S1.1 'keys': and the keys these",
            "no test shows S1.2: Envelopes",
        ]

    def test_a_box_with_cases_needs_a_test_of_each_and_not_of_the_whole(
        self, tool: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SystemExit, match=r"no test shows S1\.1 'topics'"):
            run(tool, monkeypatch, WHOLE.replace(', "topics", "keys"', ""))


class TestPage:
    def test_it_links_every_case_with_its_tests(self, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        run(tool, monkeypatch, WHOLE + '@pytest.mark.box("S1.1", "keys")\ndef test_more():\n    pass\n')
        text = tool.PAGE.read_text()
        assert text.startswith(tool.INTRODUCTION)
        link = "[test_it::{name}](../tests/test_it.py)"
        assert text[len(tool.INTRODUCTION) :].split("\n") == [
            "",
            "## S1.1 Names",
            "",
            "- the topics are these:",
            "  - " + link.format(name="test_all"),
            "- and the keys these:",
            "  - " + link.format(name="test_all"),
            "  - " + link.format(name="test_more"),
            "",
            "## S1.2 Envelopes",
            "",
            "- " + link.format(name="test_all"),
            "",
        ]
        run(tool, monkeypatch, WHOLE + '@pytest.mark.box("S1.1", "keys")\ndef test_more():\n    pass\n', "--check")

    @pytest.mark.parametrize("before", [None, "something else"])
    def test_a_check_writes_nothing_and_fails_when_the_page_is_another(
        self, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, before: str | None
    ) -> None:
        if before is not None:
            tool.PAGE.write_text(before)
        with pytest.raises(SystemExit, match="run hack/generate-traceability"):
            run(tool, monkeypatch, WHOLE, "--check")
        assert (tool.PAGE.read_text() if tool.PAGE.exists() else None) == before
