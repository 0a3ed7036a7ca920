"""An archive has one right sequence of bytes, holds all that an audit needs, and is refused as anything else."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.archive import ArchiveSource
from agentworld_client.archive_file import ArchiveDamaged, ArchiveWriter, file_hash
from agentworld_client.changes import changes_between
from agentworld_client.errors import VerificationFailed
from agentworld_client.export import ExportReport, export
from agentworld_client.inspector import Inspector
from agentworld_client.verifier import VerificationReport, Verifier
from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, InvalidField, MalformedEncoding, NotAvailable, NotFound
from agentworld_core.ledger.archive import (
    BLOCK_BYTES,
    ArchiveHeader,
    block_name,
    chunk_name,
    directory_name,
    entry_header,
    parse_entry_header,
    segment_name,
)
from agentworld_core.ledger.block import block_hash_of
from tests.unit.client.chain_source import ChainSource, a_chain
from tests.unit.core.ledger.chains import Chain, with_fields

Entries = list[tuple[str, bytes]]
HEIGHT = 8


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain()


@pytest.fixture
async def archive(chain: Chain, tmp_path: Path) -> Path:
    await exported(chain, tmp_path / "world.tar")
    return tmp_path / "world.tar"


async def exported(chain: Chain, path: Path, **options: Any) -> ExportReport:
    return await export(ChainSource(chain), path, **options)


async def checked(path: Path, *, replay: bool = False, **options: Any) -> VerificationReport:
    with ArchiveSource(path) as source:
        verifier = Verifier(await source.genesis(), replay=replay)
        report = await verifier.verify(source, **options)
        source.check_rest(verifier.chain)
        return report


def entries(path: Path) -> Entries:
    with tarfile.open(path) as tar:
        return [(item.name, (tar.extractfile(item) or open("/dev/null", "rb")).read()) for item in tar]


def read(path: Path) -> bytes:
    return path.read_bytes()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(path: Path, items: Entries) -> Path:
    with path.open("wb") as file:
        writer = ArchiveWriter(file)
        for name, data in items:
            writer.add(name, data)
        writer.finish()
    return path


class TestExport:
    async def test_it_is_a_tar_file_with_everything_in_its_order(self, chain: Chain, archive: Path) -> None:
        names = [name for name, _ in entries(archive)]
        assert names[:2] == ["archive.cbor", "genesis.cbor"]
        assert names.index(block_name(8)) < names.index(directory_name(1)) < names.index("snapshot/manifest.cbor")
        assert names[-1].startswith("snapshot/chunk-")
        blobs = {data for _, data in entries(archive)}
        assert set(chain.executions[7].blobs.values()) <= blobs
        header = decode(ArchiveHeader, entries(archive)[0][1])
        assert (header.height, header.snapshot_height, header.state_root) == (HEIGHT, 6, chain.state.state_root)

    async def test_the_same_world_gives_the_same_bytes(self, chain: Chain, archive: Path, tmp_path: Path) -> None:
        report = await exported(chain, tmp_path / "again.tar")
        assert read(tmp_path / "again.tar") == read(archive)
        assert report.archive_hash == file_hash(archive)
        assert report.size_bytes == len(read(archive))
        with ArchiveSource(archive) as source:
            copy = await export(source, tmp_path / "copy.tar")
        assert copy.archive_hash == report.archive_hash

    @pytest.mark.box("S7.3", "sources")
    @pytest.mark.parametrize("height", range(HEIGHT + 1))
    async def test_up_to_any_height(self, chain: Chain, tmp_path: Path, height: int) -> None:
        report = await exported(chain, tmp_path / "world.tar", height=height)
        assert (report.height, report.snapshot_height) == (height, height // 3 * 3)
        root = chain.executions[height].chain.state_root if height < HEIGHT else chain.state.state_root
        for replay in (False, True):
            assert (await checked(tmp_path / "world.tar", replay=replay)).state_root == root == report.state_root

    async def test_nothing_is_written_when_the_source_is_wrong(self, chain: Chain, tmp_path: Path) -> None:
        source = ChainSource(chain)
        source.bundles[4] = with_fields(source.bundles[4], "block", tick=99)
        with pytest.raises(VerificationFailed) as caught:
            await export(source, tmp_path / "world.tar")
        assert caught.value.height == 5
        with pytest.raises(VerificationFailed):
            await export(ChainSource(chain), tmp_path / "world.tar", trusted_genesis="a" * 64)
        with pytest.raises(NotAvailable):
            await export(ChainSource(chain), tmp_path / "world.tar", height=9)
        assert names_in(tmp_path) == []

    async def test_files_that_cannot_be_written(self, chain: Chain, archive: Path, tmp_path: Path) -> None:
        before = read(archive)
        for path, says in ((archive, "exists already"), (tmp_path / "no" / "world.tar", "cannot be written")):
            with pytest.raises(InvalidField, match=says):
                await exported(chain, path)
        assert read(archive) == before


class TestReading:
    async def test_it_is_a_source_like_any_other(self, chain: Chain, archive: Path) -> None:
        with ArchiveSource(archive) as source:
            it = await Inspector.open(source)
            assert (await it.block("4"))["height"] == 4
            assert (await it.block(block_hash_of(chain.bundles[1].block)))["height"] == 2
            action = chain.bundles[6].batch.actions[0]
            assert (await it.receipt(action.action_id))["code"] == "unauthorized"
            assert (await it.snapshot("6"))["epoch"] == 6
            assert (await it.segment(chain.bundles[2].block.segments[0].content_hash))["height"] == 3
            assert (await it.state("object/lamp", height=5))["value"]["data"] == {"lit": False}
            found = await changes_between(source, chain.genesis, 3, 8)
            assert found == await changes_between(ChainSource(chain), chain.genesis, 3, 8)
            for ask in (it.block("9"), it.receipt("a" * 64), it.segment("a" * 64), it.block("b" * 64)):
                with pytest.raises(NotFound):
                    await ask
            with pytest.raises(NotFound):
                await source.directory(3)

    async def test_verification_may_begin_at_its_snapshot(self, archive: Path) -> None:
        report = await checked(archive, replay=True, start=7)
        assert (report.from_height, report.height) == (7, HEIGHT)


def without(name: str) -> Callable[[Entries], Entries]:
    return lambda items: [item for item in items if item[0] != name]


def with_content(name: str, change: Callable[[bytes], bytes]) -> Callable[[Entries], Entries]:
    return lambda items: [(key, change(data) if key == name else data) for key, data in items]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def renamed(name: str, new: str) -> Callable[[Entries], Entries]:
    return lambda items: [(new if key == name else key, data) for key, data in items]


def swapped(one: str, other: str) -> Callable[[Entries], Entries]:
    def change(items: Entries) -> Entries:
        known = dict(items)
        return [(key, known[{one: other, other: one}.get(key, key)]) for key, _ in items]

    return change


def added(name: str, data: bytes = b"x", *, before: str = "") -> Callable[[Entries], Entries]:
    def change(items: Entries) -> Entries:
        at = next((index for index, item in enumerate(items) if item[0] == before), len(items))
        return [*items[:at], (name, data), *items[at:]]

    return change


def header(**fields: Any) -> Callable[[Entries], Entries]:
    def change(data: bytes) -> bytes:
        known = decode(ArchiveHeader, data)
        names = ArchiveHeader.__dataclass_fields__
        return encode(ArchiveHeader(**{name: fields.get(name, getattr(known, name)) for name in names}))

    return with_content("archive.cbor", change)


PARTS = (
    "archive.cbor", "genesis.cbor", block_name(5), block_name(5, "journal"), segment_name(5, 0),
    block_name(5, "receipts"), directory_name(1), directory_name(2), "snapshot/manifest.cbor", chunk_name(0),
)  # fmt: skip
TAMPERING: dict[str, Callable[[Entries], Entries]] = {
    **{f"without {name}": without(name) for name in PARTS},
    **{f"{name} changed": with_content(name, flip) for name in PARTS},
    **{f"{name} empty": with_content(name, lambda _: b"") for name in PARTS},
    **{f"{name} renamed": renamed(name, "x/" + name) for name in PARTS},
    **{f"{name} oversized": with_content(name, lambda data: data + bytes(2**23)) for name in PARTS[:2]},
    "a chunk oversized": with_content(chunk_name(0), lambda data: data + bytes(2**20)),
    "a block oversized": with_content(block_name(5), lambda data: data + bytes(2**24)),
    "a path outside": renamed(block_name(5), "../../etc/passwd"),
    "an absolute path": renamed(block_name(5), "/etc/passwd"),
    "two blocks swapped": swapped(block_name(4), block_name(5)),
    "two directories swapped": swapped(directory_name(1), directory_name(2)),
    "receipts of another block": swapped(block_name(4, "receipts"), block_name(5, "receipts")),
    "a stranger at the end": added("note.txt"),
    "a stranger among the blocks": added("note.txt", before=block_name(5)),
    "a stranger in a block": added(block_name(5, "note"), before=block_name(6)),
    "a second segment": added(segment_name(5, 1), before=block_name(5, "receipts")),
    "a block more": added(block_name(9), before=directory_name(1)),
    "a directory more": added(directory_name(3), before="snapshot/manifest.cbor"),
    "a chunk more": added(chunk_name(7)),
    "another format": header(format=2),
    "another world": header(world_id="borealis"),
    "another genesis": header(genesis_hash="1" * 64),
    "a lower height": header(height=7),
    "a higher height": header(height=9),
    "an absurd height": header(height=2**63),
    "another block hash": header(block_hash="1" * 64),
    "another state root": header(state_root="1" * 64),
    "another snapshot": header(snapshot_height=3),
    "no snapshot": header(snapshot_height=0),
}


@pytest.mark.parametrize("how", TAMPERING)
async def test_an_archive_that_is_anything_else_is_refused(archive: Path, tmp_path: Path, how: str) -> None:
    items = entries(archive)
    changed = TAMPERING[how](list(items))
    assert changed != items
    with pytest.raises(VerificationFailed) as caught:
        await checked(written(tmp_path / "changed.tar", changed))
    assert caught.value.place or caught.value.height


class TestBytes:
    async def test_cut_off_anywhere(self, archive: Path, tmp_path: Path) -> None:
        data = read(archive)
        path = tmp_path / "cut.tar"
        for size in [0, 1, 100, *range(BLOCK_BYTES, len(data), 7 * BLOCK_BYTES + 13), len(data) - 1, len(data) - 512]:
            path.write_bytes(data[:size])
            with pytest.raises(ArchiveDamaged):
                await checked(path)

    async def test_any_byte_changed_in_any_header_or_padding(self, archive: Path, tmp_path: Path) -> None:
        data = read(archive)
        path = tmp_path / "changed.tar"
        for place in range(0, len(data), 97):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
            with pytest.raises(AgentWorldError):
                await checked(path)

    async def test_bytes_behind_the_end(self, archive: Path) -> None:
        with archive.open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ArchiveDamaged, match="end of the file"):
            await checked(archive)

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME])
    async def test_anything_but_regular_files(self, archive: Path, tmp_path: Path, kind: bytes) -> None:
        data = bytearray(read(archive))
        data[156:157] = kind
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        path = tmp_path / "link.tar"
        path.write_bytes(data)
        with pytest.raises(ArchiveDamaged):
            await checked(path)

    def test_a_name_and_size_have_one_header(self) -> None:
        header_ = entry_header("blocks/1", 10)
        assert parse_entry_header(header_) == ("blocks/1", 10)
        for name, size in (("x" * 101, 1), ("x", -1), ("x", 2**40)):
            with pytest.raises(MalformedEncoding):
                entry_header(name, size)
        for data in (b"", header_[:-1], bytes(512), header_[:124] + b"00000000zz\0" + header_[135:]):
            with pytest.raises(MalformedEncoding):
                parse_entry_header(data)

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(InvalidField):
                ArchiveSource(path)
