"""B2: the content store against git's loose objects and ``git cat-file --batch``; half of what is put is there already.

Both sides keep the same bytes with the same durability: none, or every object synced. git is asked in one process for
all objects, 64 at a time for reading, and without compression, so that nothing but storing is compared.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from agentworld_node.storage.blobs import FileBlobStore
from tests.bench.harness import Case, LeftOut, Setting, wall

SMALL_BYTES = 4096
SEED = 20_250_102
_WINDOW = 64
_numbers = itertools.count()


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields put and get of small blobs against git, and put of a large one against hashing and writing."""
    if shutil.which("git") is None:
        yield LeftOut(id="B2", case="small blobs", reason="git is not installed")
    else:
        yield from _small(setting)
    large = random.Random(SEED).randbytes(setting.size(64 * 2**20, 2**20))
    yield Case(
        id="B2",
        case=f"put of {len(large) >> 20} MiB",
        peer="BLAKE3 and write",
        ours=lambda: wall(lambda: _store(setting.folder).put(large), items=1),
        theirs=lambda: wall(lambda: _hash_and_write(setting.folder, large), items=1),
        goal=0.7,
    )


def _small(setting: Setting) -> Iterator[Case]:
    chance = random.Random(SEED)
    distinct = [chance.randbytes(SMALL_BYTES) for _ in range(setting.size(500, 40))]
    everything = [blob for blob in distinct for _ in range(2)]
    chance.shuffle(everything)
    sources = _write_sources(setting.folder, everything)
    yield _put_case(setting, everything, sources, durable=False)
    few = setting.size(200, 40)  # each waits for the disk
    yield _put_case(setting, everything[:few], sources[:few], durable=True)
    store = _store(setting.folder)
    names = store.put_many(distinct)
    repository = _repository(setting.folder)
    objects = _git_write(repository, sources, durable=False)
    order = chance.sample(range(len(distinct)), len(distinct))
    git_order = chance.sample(sorted(set(objects)), len(set(objects)))
    yield Case(
        id="B2",
        case="get of 4 KiB, verified",
        peer="git cat-file --batch",
        ours=lambda: wall(lambda: [store.get(names[index]) for index in order], items=len(order)),
        theirs=lambda: wall(lambda: _git_get(repository, git_order), items=len(git_order)),
        goal=5.0,
        check=lambda: None if all(store.get(name) == blob for name, blob in zip(names, distinct, strict=True)) else
        "a blob came back as another",
    )  # fmt: skip


def _put_case(setting: Setting, blobs: Sequence[bytes], sources: Sequence[str], *, durable: bool) -> Case:
    return Case(
        id="B2",
        case=f"put of 4 KiB, half known, {'each synced' if durable else 'not synced'}",
        peer="git loose objects",
        ours=lambda: _put(setting.folder, blobs, durable),
        theirs=lambda: _git_put(setting.folder, sources, durable),
        goal=None if durable else 3.0,
        check=lambda: _wrong(setting, blobs),
    )


def _store(folder: Path) -> FileBlobStore:
    store = FileBlobStore.open(folder / f"blobs-{next(_numbers)}")
    store.own()
    return store


def _put(folder: Path, blobs: Sequence[bytes], durable: bool) -> float:
    """Making the folders of a store is not measured, as that of a repository of git is not."""
    store = _store(folder)

    def put() -> None:
        for blob in blobs:
            store.put(blob, durable=durable)

    return wall(put, items=len(blobs))


def _write_sources(folder: Path, blobs: Sequence[bytes]) -> list[str]:
    """Files that git reads the same blobs from; what is in the page cache costs it next to nothing."""
    sources = folder / "sources"
    sources.mkdir()
    for index, blob in enumerate(blobs):
        (sources / str(index)).write_bytes(blob)
    return [str(sources / str(index)) for index in range(len(blobs))]


def _repository(folder: Path) -> Path:
    path = folder / f"git-{next(_numbers)}"
    _git(folder, "init", "--quiet", "--bare", str(path))
    _git(path, "config", "core.compression", "0")
    return path


def _git(folder: Path, *arguments: str, text: str = "") -> str:
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, input=text, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


def _git_write(repository: Path, sources: Sequence[str], *, durable: bool) -> list[str]:
    fsync = "loose-object" if durable else "none"
    names = _git(repository, "-c", f"core.fsync={fsync}", "hash-object", "-w", "--stdin-paths", text="\n".join(sources))
    return names.split()


def _git_put(folder: Path, sources: Sequence[str], durable: bool) -> float:
    repository = _repository(folder)
    return wall(lambda: _git_write(repository, sources, durable=durable), items=len(sources))


def _git_get(repository: Path, names: Sequence[str]) -> None:
    with subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for start in range(0, len(names), _WINDOW):
            window = names[start : start + _WINDOW]
            process.stdin.write("".join(f"{name}\n" for name in window).encode())
            process.stdin.flush()
            for _ in window:
                size = int(process.stdout.readline().split()[2])
                process.stdout.read(size + 1)
        process.stdin.close()


def _hash_and_write(folder: Path, data: bytes) -> None:
    blake3(data).hexdigest()
    (folder / f"large-{next(_numbers)}").write_bytes(data)


def _wrong(setting: Setting, blobs: Sequence[bytes]) -> str | None:
    store = _store(setting.folder)
    names = store.put_many(blobs)
    if [store.get(name) for name in names] != list(blobs):
        return "a blob came back as another"
    if list(store.iterate()) != sorted(set(names)):
        return "something else is stored than what was put"
    return None
