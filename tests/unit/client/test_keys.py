"""Key files: written once, readable by their owner alone, and told what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentworld_client.keys import generate, load, save
from agentworld_core.errors import InvalidField, NotFound


def test_a_key_is_read_as_it_was_written(tmp_path: Path) -> None:
    signer, path = generate(), tmp_path / "deep" / "ada.pem"
    save(signer, path)
    assert load(path).key_id == signer.key_id
    assert os.stat(path).st_mode & 0o077 == 0
    assert [item.name for item in path.parent.iterdir()] == ["ada.pem"]


def test_a_key_is_not_overwritten_unless_told_so(tmp_path: Path) -> None:
    first, second, path = generate(), generate(), tmp_path / "ada.pem"
    save(first, path)
    with pytest.raises(InvalidField, match="exists already"):
        save(second, path)
    assert load(path).key_id == first.key_id
    save(second, path, overwrite=True)
    assert load(path).key_id == second.key_id
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidField, match=r"file.ada\.pem"):
        save(generate(), tmp_path / "file" / "ada.pem")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidField, match="cannot be written"):
        save(generate(), tmp_path / "folder", overwrite=True)


def test_what_is_no_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such key file"):
        load(tmp_path / "none")
    (tmp_path / "garbage").write_bytes(b"garbage")
    with pytest.raises(InvalidField, match="garbage"):
        load(tmp_path / "garbage")
    with pytest.raises(InvalidField, match="cannot be read"):
        load(tmp_path)
