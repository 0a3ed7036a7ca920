"""Key folders: taken up without a restart, damage reported and survived."""

from pathlib import Path

from agentworld_core.messages import KeyEntry
from agentworld_core.signing import Ed25519Signer
from agentworld_node.keys import KeyFolder

ONE, TWO = Ed25519Signer(b"\x01" * 32), Ed25519Signer(b"\x02" * 32)


def entry(signer: Ed25519Signer, generation: int) -> KeyEntry:
    return KeyEntry(signer.key_id, signer.public_key, generation)


def test_the_active_key_signs_and_a_new_one_is_taken_up(tmp_path: Path):
    (tmp_path / "g1.pem").write_bytes(ONE.pem())
    (tmp_path / "active").write_text(ONE.key_id + "\n")
    folder = KeyFolder(tmp_path)
    both = [entry(ONE, 1), entry(TWO, 2)]
    chosen = folder.choose(both)
    assert chosen is not None
    assert chosen.key_id == ONE.key_id
    assert not folder.reload()
    (tmp_path / "g2.pem").write_bytes(TWO.pem())
    assert folder.reload()
    assert folder.keys.active_key_id == ONE.key_id
    (tmp_path / "active").write_text(TWO.key_id)
    assert folder.reload()
    chosen = folder.choose(both)
    assert chosen is not None
    assert chosen.key_id == TWO.key_id


def test_an_active_key_that_is_not_trusted_or_is_revoked_gives_way_to_one_that_counts(tmp_path: Path):
    (tmp_path / "g1.pem").write_bytes(ONE.pem())
    (tmp_path / "g2.pem").write_bytes(TWO.pem())
    (tmp_path / "active").write_text(TWO.key_id)
    folder = KeyFolder(tmp_path)
    only_old = folder.choose([entry(ONE, 1)])
    assert only_old is not None
    assert only_old.key_id == ONE.key_id
    spared = folder.choose([entry(ONE, 1), entry(TWO, 2)], revoked={TWO.key_id})
    assert spared is not None
    assert spared.key_id == ONE.key_id
    assert folder.choose([entry(ONE, 1)], revoked={ONE.key_id}) is None
    assert folder.choose([]) is None


def test_a_broken_key_file_is_reported_and_the_others_stay_usable(tmp_path: Path):
    (tmp_path / "g1.pem").write_bytes(ONE.pem())
    (tmp_path / "g2.pem").write_bytes(b"not a key")
    (tmp_path / "active").write_text("f" * 32)
    folder = KeyFolder(tmp_path)
    assert list(folder.keys.signers) == [ONE.key_id]
    assert any("g2.pem" in problem for problem in folder.keys.problems)
    assert any("active" in problem for problem in folder.keys.problems)


def test_a_missing_folder_is_no_keys_and_a_complaint(tmp_path: Path):
    folder = KeyFolder(tmp_path / "absent")
    assert folder.keys.signers == {}
    assert folder.keys.problems
    assert KeyFolder(None).choose([entry(ONE, 1)]) is None
