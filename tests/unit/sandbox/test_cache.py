"""The native forms on disk save time, and nothing that happens to them can do more than cost it again."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from agentworld_core.errors import InvalidField
from agentworld_core.hashing import content_id
from agentworld_node.sandbox import SandboxSettings, WasmSandbox
from agentworld_node.sandbox.cache import NativeCache
from agentworld_node.sandbox.engine import Engine
from tests.unit.sandbox.wat import module, run


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The content ids of what is compiled, as it happens."""
    seen: list[str] = []
    compile_module = Engine.compile

    def recording(self: Engine, code: bytes) -> object:
        seen.append(content_id(code))
        return compile_module(self, code)

    monkeypatch.setattr(Engine, "compile", recording)
    return seen


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def use(folder: Path, code: bytes | None = None) -> None:
    assert run(WasmSandbox(folder), code or module(), b"hello").output == b"hello"


@pytest.mark.box("S17.1", "compiled")
def test_a_second_start_compiles_nothing_and_gives_the_same(tmp_path: Path, compiled: list[str]) -> None:
    first = run(WasmSandbox(tmp_path / "cache"), module(), b"hello")
    assert run(WasmSandbox(tmp_path / "cache"), module(), b"hello") == first
    assert compiled == [content_id(module())]


def test_the_folder_is_ours_alone_and_so_are_its_files(tmp_path: Path) -> None:
    use(tmp_path / "deep" / "cache")
    assert stat.S_IMODE((tmp_path / "deep" / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(tmp_path / "deep" / "cache").stat().st_mode) == 0o600


def test_a_deleted_folder_or_file_is_only_made_again(tmp_path: Path, compiled: list[str]) -> None:
    folder = tmp_path / "cache"
    use(folder)
    only_file(folder).unlink()
    use(folder)
    sandbox = WasmSandbox(folder)
    only_file(folder).unlink()
    folder.rmdir()
    assert run(sandbox, module(), b"x").output == b"x"
    assert len(compiled) == 3


@pytest.mark.box("S17.1", "compiled")
def test_any_damage_of_a_file_is_noticed_and_mended(tmp_path: Path, compiled: list[str]) -> None:
    folder = tmp_path / "cache"
    use(folder)
    good = only_file(folder).read_bytes()
    places = [*range(60), *range(60, len(good), 997), len(good) - 1]
    damaged = [good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :] for n in places]
    damaged += [b"", good[:10], good[:52], good[:-1], good + b"\0"]
    cache = NativeCache(folder, engine_id=Engine(parallel_calls=1).engine_id, limit_bytes=2**30)
    artifact = content_id(module())
    assert cache.get(artifact) is not None
    for content in damaged:
        only_file(folder).write_bytes(content)
        assert cache.get(artifact) is None
        assert list(folder.iterdir()) == []
        cache.put(artifact, good[52:])
    assert only_file(folder).read_bytes() == good
    only_file(folder).write_bytes(damaged[0])
    use(folder)
    assert only_file(folder).read_bytes() == good
    assert len(compiled) == 2


def test_a_form_of_another_module_or_engine_is_not_taken(tmp_path: Path) -> None:
    cache = NativeCache(tmp_path / "cache", engine_id="a" * 64, limit_bytes=2**20)
    cache.put("1" * 64, b"form")
    only_file(tmp_path / "cache").rename(tmp_path / "cache" / only_file(tmp_path / "cache").name.replace("1", "2"))
    assert cache.get("2" * 64) is None
    cache.put("1" * 64, b"form")
    assert NativeCache(tmp_path / "cache", engine_id="b" * 64, limit_bytes=2**20).get("1" * 64) is None
    assert cache.get("1" * 64) == b"form"


def test_a_form_that_the_engine_refuses_is_made_again(tmp_path: Path, compiled: list[str]) -> None:
    folder = tmp_path / "cache"
    cache = NativeCache(folder, engine_id=Engine(parallel_calls=1).engine_id, limit_bytes=2**30)
    cache.put(content_id(module()), b"sealed as it should be, but no machine code")
    use(folder)
    use(folder)
    assert compiled == [content_id(module())]


def test_what_others_could_have_written_is_not_run(tmp_path: Path, compiled: list[str]) -> None:
    folder = tmp_path / "cache"
    use(folder)
    only_file(folder).chmod(0o620)
    use(folder)
    path = only_file(folder)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    use(folder)
    os.mkfifo(path.with_suffix(".x"))
    path.unlink()
    path.with_suffix(".x").rename(path)
    use(folder)
    assert len(compiled) == 4


def test_a_folder_that_others_could_write_to_is_emptied_and_closed(tmp_path: Path, compiled: list[str]) -> None:
    folder = tmp_path / "cache"
    use(folder)
    folder.chmod(0o770)
    use(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(compiled) == 2


def test_a_folder_that_cannot_be_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link", "file/below"):
        with pytest.raises(InvalidField, match="cache_folder"):
            WasmSandbox(tmp_path / name)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InvalidField, match="user who runs the node"):
        WasmSandbox(tmp_path / "real")


def test_the_folder_is_bounded_and_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = NativeCache(folder, engine_id="e" * 64, limit_bytes=3500)
    for number in range(3):
        cache.put(str(number) * 64, bytes(1000))
        os.utime(next(folder.glob(f"{number}*")), (number, number))
    assert cache.get("0" * 64) == bytes(1000)
    cache.put("3" * 64, bytes(1000))
    assert sorted(path.name[0] for path in folder.iterdir()) == ["0", "2", "3"]
    cache.put("4" * 64, bytes(4000))
    assert sorted(path.name[0] for path in folder.iterdir()) == ["0", "2", "3"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    NativeCache(folder, engine_id="e" * 64, limit_bytes=100)
    (folder / "tmpabc.part").write_bytes(b"half")
    NativeCache(folder, engine_id="e" * 64, limit_bytes=100)
    assert list(folder.iterdir()) == []


def test_a_full_disk_costs_time_and_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = WasmSandbox(tmp_path / "cache")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run(sandbox, module(), b"x").output == b"x"
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_sandboxes_may_share_a_folder(tmp_path: Path) -> None:
    settings = SandboxSettings(cached_modules=1, cache_folder_bytes=40_000)
    codes = [module(f"(drop (i32.const {n})) (call $pack (local.get $at) (local.get $len))") for n in range(4)]
    wrong: list[bytes] = []

    def work() -> None:
        sandbox = WasmSandbox(tmp_path / "cache", settings)
        for _ in range(10):
            wrong.extend(code for code in codes if run(sandbox, code, b"x").output != b"x")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
