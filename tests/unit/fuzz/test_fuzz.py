"""A few seconds of fuzzing in every run; ``make fuzz`` does more."""

from __future__ import annotations

import pytest

from tests.unit.fuzz.decoders import Decoder, decoders
from tests.unit.fuzz.run import Outcome, fuzz, judge

INPUTS = 100


@pytest.fixture(params=decoders())
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return decoders()[request.param]


def test_what_the_inputs_are_made_from_is_accepted(decoder: Decoder) -> None:
    outcome = Outcome()
    for seed in decoder.seeds:
        judge(decoder, seed, outcome)
    assert outcome.accepted == len(decoder.seeds) or decoder.name == "error in a reply", outcome


def test_mutated_inputs_are_refused_with_a_typed_error_or_accepted_as_they_are(decoder: Decoder) -> None:
    assert fuzz(decoder, seed=0, count=INPUTS).inputs == INPUTS


def test_a_decoder_that_fails_is_found() -> None:
    def careless(data: bytes) -> bytes:
        return bytes([data[3]])

    with pytest.raises(AssertionError, match="--decoder 'careless' --seed 5 --from"):
        fuzz(Decoder("careless", (b"\x84\x01\x02\x03\x04",), careless), seed=5, count=200)
