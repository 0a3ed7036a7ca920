"""Durations read back as they were written."""

import pytest

from agentworld_core.errors import InvalidField
from agentworld_core.topology.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("15s", 15_000), ("1m30s", 90_000), ("500ms", 500), ("24h", 86_400_000), ("1h1m1s1ms", 3_661_001), ("0s", 0)],
)
def test_a_duration_becomes_milliseconds(text: str, milliseconds: int) -> None:
    assert parse_duration(text, field="f") == milliseconds


@pytest.mark.parametrize("text", ["", "s", "15", "-1s", "1s1m", " 1s", "1s ", "1d", None, 15, True, "٣s"])
def test_what_is_no_duration_is_refused_by_field_and_value(text: object) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_duration(text, field="spec.f")
    assert caught.value.field == "spec.f"
    assert caught.value.value == text


@pytest.mark.parametrize("milliseconds", [0, 1, 999, 1_000, 90_000, 86_400_000, 3_661_001, 123_456_789])
def test_a_formatted_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds), field="f") == milliseconds
