"""``agentworld evidence check`` of what a status holds: two signed messages alone, as text, by pipe or in a file."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_vote
from agentworld_core.consensus.evidence import evidence_id, evidence_of
from agentworld_core.ledger.evidence_file import EvidenceFile
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.messages import PRECOMMIT, Equivocation, Round
from agentworld_core.signing import sign
from agentworld_node.cli import evidence as evidence_commands
from agentworld_node.cli.app import FAILED, NOT_VERIFIED, app
from tests.unit.core.consensus.test_evidence import GENESIS, proof
from tests.unit.node.material import signer

assert evidence_commands.evidence_app is not None, "importing it registers its commands"

KEY = signer("v1").public_key.hex()


def text(item: Equivocation | EvidenceFile) -> str:
    return base64.b64encode(encode(item)).decode()


def check(*words: object, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(app, ["evidence", "check", *map(str, words)], input=stdin)


def says(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.mark.box("S25.3", "evidence-checked-offline")
class TestKey:
    def test_what_kubectl_prints_is_proven_by_the_key_of_the_validator(self) -> None:
        result = check("-", "--public-key", KEY, "--output", "json", stdin=text(proof()))
        assert result.exit_code == 0, result.output
        facts = json.loads(result.output)
        assert (facts["validator"], facts["hash"], facts["epoch"]) == ("v1", evidence_id(proof()), 1)
        assert facts["world"] == "aurora", "its keys may sign for other worlds too"
        assert facts["keys"] == [signer("v1").key_id]
        assert "genesis" not in facts, "nothing is known of one"

    def test_a_file_does_as_well_wrapped_or_as_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "proof"
        whole = text(proof())
        for data in (whole.encode(), "\n".join([whole[:76], whole[76:], ""]).encode(), encode(proof())):
            file.write_bytes(data)
            assert check(file, "--public-key", KEY).exit_code == 0

    def test_bytes_are_read_from_standard_input_too(self) -> None:
        assert check("-", "--public-key", KEY, stdin=encode(proof())).exit_code == 0

    def test_a_proof_under_two_keys_takes_both(self) -> None:
        votes = [
            sign(
                draft_vote(
                    GENESIS.directory,
                    validator_id="v1",
                    height=5,
                    round_=Round(2, 1),
                    phase=PRECOMMIT,
                    block_hash=value,
                ),
                signer("v1", generation),
            )
            for generation, value in ((1, "a" * 64), (2, "b" * 64))
        ]
        both = text(evidence_of(*votes))
        second = signer("v1", 2).public_key.hex()
        assert check("-", "--public-key", KEY, "--public-key", second, stdin=both).exit_code == 0
        refused = check("-", "--public-key", KEY, stdin=both)
        assert refused.exit_code == NOT_VERIFIED
        assert signer("v1", 2).key_id in says(refused)

    @pytest.mark.parametrize(
        "item",
        [
            dataclasses.replace(proof(), first=dataclasses.replace(proof().first, height=6)),
            Equivocation(proof().first, proof().first),
            Equivocation(proof().second, proof().first),
            Equivocation(proof().first, proof(height=6).second),
        ],
    )
    def test_what_proves_nothing_is_refused(self, item: Equivocation) -> None:
        refused = check("-", "--public-key", KEY, stdin=text(item))
        assert (refused.exit_code, "nothing is proven" in says(refused)) == (NOT_VERIFIED, True)

    def test_the_key_of_another_proves_nothing(self) -> None:
        refused = check("-", "--public-key", signer("v2").public_key.hex(), stdin=text(proof()))
        assert refused.exit_code == NOT_VERIFIED
        assert signer("v1").key_id in says(refused)

    @pytest.mark.parametrize("key", ["", "xyz", "ab" * 31, "é" * 64])
    def test_what_is_no_key_is_refused_by_name(self, key: str) -> None:
        refused = check("-", "--public-key", key, stdin=text(proof()))
        assert (refused.exit_code, "--public-key" in says(refused)) == (FAILED, True)


class TestRefused:
    def test_two_messages_alone_need_somebody_who_says_whose_keys_they_are(self) -> None:
        refused = check("-", stdin=text(proof()))
        assert refused.exit_code == FAILED
        assert "--public-key" in says(refused)
        assert "--source" in says(refused)

    @pytest.mark.parametrize(
        ("words", "item"),
        [
            (["--public-key", KEY, "--source", "x"], proof()),
            (["--public-key", KEY, "--genesis", genesis_hash(GENESIS)], proof()),
            (["--public-key", KEY], EvidenceFile(GENESIS, (), proof())),
            (["--source", "x"], EvidenceFile(GENESIS, (), proof())),
        ],
    )
    def test_options_without_a_meaning(self, words: list[str], item: Equivocation | EvidenceFile) -> None:
        refused = check("-", *words, stdin=text(item))
        assert (refused.exit_code, words[0] in says(refused)) == (FAILED, True)

    @pytest.mark.parametrize(
        ("stdin", "why"),
        [
            ("", "is empty"),
            ("\n", "is empty"),
            ("error: array index out of bounds", "holds no proof"),
            (text(proof())[:-8], "holds no proof"),
            (text(proof())[:-3], "holds no proof"),
            (base64.b64encode(encode(GENESIS)), "holds no proof"),
            (encode(GENESIS), "holds no proof"),
            (b"\xff\xfe", "holds no proof"),
        ],
    )
    def test_what_is_no_proof_is_told_as_such(self, stdin: str | bytes, why: str) -> None:
        refused = check("-", "--public-key", KEY, stdin=stdin)
        assert (refused.exit_code, why in says(refused)) == (FAILED, True), refused.output


def test_a_saved_file_may_come_as_text_or_by_pipe() -> None:
    file = EvidenceFile(GENESIS, (), proof())
    for stdin in (text(file), encode(file)):
        result = check("-", "--genesis", genesis_hash(GENESIS), stdin=stdin)
        assert result.exit_code == 0, result.output
