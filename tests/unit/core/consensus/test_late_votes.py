"""Votes for a height that is decided here are still compared; timeouts grow with all tries of a height."""

from __future__ import annotations

import pytest

from agentworld_core.consensus.decided import HEIGHTS_KEPT
from agentworld_core.consensus.events import (
    Commit,
    HeightStarted,
    LeaseObserved,
    RecordEvidence,
    SetTimer,
    Timeouts,
)
from agentworld_core.consensus.evidence import accused as culprit
from agentworld_core.consensus.evidence import check_equivocation
from agentworld_core.messages import PRECOMMIT, PREVOTE, CommitCertificate
from tests.unit.core.consensus.bench import FOUR, Bench, R, only, proposal, vote

OTHER = "f" * 64


def decided(bench: Bench, height: int = 1) -> CommitCertificate:
    """Lets ``b``, ``c`` and the bench's node decide the height, which ``d`` says nothing of; begins the next."""
    body = proposal("b", R(1, 0), height=height)
    bench.propose(body)
    bench.hear(*(vote(name, R(1, 0), phase, body, height=height) for phase in (PREVOTE, PRECOMMIT) for name in "bc"))
    certificate = only(bench.effects, Commit)[-1].certificate
    bench.give(HeightStarted(height + 1, FOUR, R(1, 0), certificate))
    return certificate


def accused(effects: list) -> list[str]:
    """Who is proven to have voted twice."""
    found = [item.evidence for item in only(effects, RecordEvidence)]
    for evidence in found:
        check_equivocation(evidence, FOUR)
    return [culprit(evidence) for evidence in found]


class TestDecidedHeights:
    @pytest.mark.box("S25.1", "late-vote")
    def test_a_late_vote_that_contradicts_one_that_was_counted_is_evidence(self) -> None:
        bench = Bench()
        decided(bench)
        assert accused(bench.hear(vote("c", R(1, 0), PRECOMMIT, OTHER))) == ["c"]
        assert accused(bench.hear(vote("c", R(1, 0), PREVOTE, None))) == [], "one proof at a height is enough"
        assert accused(bench.hear(vote("b", R(1, 0), PREVOTE, None))) == ["b"]

    @pytest.mark.box("S25.1", "late-vote")
    def test_what_contradicts_nothing_is_not_worth_its_signature(self) -> None:
        bench = Bench()
        certificate = decided(bench)
        for late in (
            vote("c", R(1, 0), PRECOMMIT, certificate.block_hash),
            vote("d", R(1, 0), PRECOMMIT, OTHER),
            vote("c", R(1, 7), PRECOMMIT, OTHER),
            vote("stranger", R(1, 0), PRECOMMIT, OTHER),
        ):
            assert not bench.engine.is_news(late)
            assert bench.hear(late) == []
        assert bench.engine.is_news(vote("c", R(1, 0), PRECOMMIT, OTHER))

    def test_the_votes_of_a_certificate_are_compared_with_those_that_were_heard(self) -> None:
        bench = Bench()
        bench.hear(vote("c", R(1, 0), PRECOMMIT, OTHER))
        certificate = decided(Bench())
        assert accused(bench.give(HeightStarted(2, FOUR, R(1, 0), certificate))) == ["c"]

    def test_a_vote_that_contradicts_a_certificate_is_evidence_where_nothing_else_was_heard(self) -> None:
        bench = Bench()
        bench.give(HeightStarted(2, FOUR, R(1, 0), decided(Bench())))
        assert accused(bench.hear(vote("c", R(1, 0), PRECOMMIT, OTHER))) == ["c"]

    @pytest.mark.box("S25.1", "bounded")
    def test_it_is_kept_for_a_few_heights_and_does_not_grow(self) -> None:
        bench = Bench()
        for height in range(1, HEIGHTS_KEPT + 2):
            decided(bench, height)
        assert not bench.engine.is_news(vote("c", R(1, 0), PRECOMMIT, OTHER, height=1))
        assert bench.engine.is_news(vote("c", R(1, 0), PRECOMMIT, OTHER, height=2))
        for attempt in range(500):
            bench.hear(vote("c", R(1, attempt), PRECOMMIT, f"{attempt:064x}", height=2))
        books = bench.engine._decided._books
        assert len(books) == HEIGHTS_KEPT
        assert sum(len(list(tally.all_votes())) for tally in books[2]._tallies.values()) <= 7


class TestNews:
    @pytest.mark.box("S25.1", "vote-again")
    def test_a_vote_that_is_counted_is_no_news(self) -> None:
        bench, heard = Bench(), vote("c", R(1, 0), PREVOTE, OTHER)
        assert bench.engine.is_news(heard)
        bench.hear(heard)
        assert not bench.engine.is_news(heard)
        assert bench.engine.is_news(vote("c", R(1, 0), PRECOMMIT, OTHER))
        assert bench.engine.is_news(vote("c", R(1, 0), PREVOTE, None)), "the other vote of one that votes twice"
        assert bench.engine.is_news(vote("c", R(1, 0), PREVOTE, OTHER, height=2))


class TestPatience:
    def wait(self, effects: list) -> int:
        return next(item.delay_ms for item in only(effects, SetTimer) if item.name.startswith("propose:"))

    def test_a_lease_that_changes_hands_does_not_make_timeouts_short_again(self) -> None:
        bench, timeouts = Bench(), Timeouts()
        assert self.wait(bench.effects) == timeouts.propose(0)
        for term in range(2, 6):
            assert self.wait(bench.give(LeaseObserved(term, "b" if term % 2 else "c"))) == timeouts.propose(term - 1)

    def test_attempts_of_an_earlier_term_count_too(self) -> None:
        bench, timeouts = Bench(), Timeouts()
        bench.hear(*(vote(name, R(1, 4), PREVOTE, None) for name in "cd"))
        assert self.wait(bench.give(LeaseObserved(2, "c"))) == timeouts.propose(5)

    def test_terms_in_which_nothing_was_to_be_decided_count_for_nothing(self) -> None:
        bench, timeouts = Bench(work=False), Timeouts()
        for term in range(2, 6):
            bench.give(LeaseObserved(term, "b"))
        bench.hear(*(vote(name, R(5, 0), PREVOTE, None) for name in "cd"))
        assert self.wait(bench.effects) == timeouts.propose(0)

    def test_a_decided_height_ends_it(self) -> None:
        bench, timeouts = Bench(), Timeouts()
        bench.give(LeaseObserved(2, "c"))
        bench.give(LeaseObserved(3, "b"))
        assert self.wait(bench.give(HeightStarted(2, FOUR, R(1, 0)))) == timeouts.propose(0)
