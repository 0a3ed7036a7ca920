"""Which bytes are a module: what is refused is refused before it runs, and whatever bytes come, the process lives."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import resource
from pathlib import Path

import pytest
import wasmtime

from agentworld_core.hashing import content_id
from agentworld_core.world.modules import structure
from agentworld_core.world.modules.sandbox import CallFailed, CallLimits, InvalidModule, ModuleCall
from agentworld_node.sandbox import WasmSandbox
from agentworld_node.sandbox.engine import Engine
from tests.unit.sandbox.wat import ECHO, module, wasm

ENTRIES = ("reduce",)
MEMORY = '(memory (export "memory") 1)'
ALLOC = '(func (export "alloc") (param i32) (result i32) (i32.const 0))'
REDUCE = '(func (export "reduce") (param i32 i32) (result i64) (i64.const 0))'


def refuse(sandbox: WasmSandbox, code: bytes, words: str | None = None) -> None:
    with pytest.raises(InvalidModule, match=words):
        sandbox.check(code, ENTRIES)


def whole(*parts: str) -> bytes:
    return wasm(f"(module {' '.join(parts)})")


def leb(number: int) -> bytes:
    encoded = b""
    while True:
        number, low = number >> 7, number & 0x7F
        encoded += bytes([low | 0x80 if number else low])
        if not number:
            return encoded


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + leb(len(content)) + content


def test_a_module_with_what_the_abi_asks_for_passes(sandbox: WasmSandbox) -> None:
    sandbox.check(whole(MEMORY, ALLOC, REDUCE), ENTRIES)
    sandbox.check(whole(MEMORY, ALLOC, REDUCE), ())


@pytest.mark.box("S0.3", "abi")
@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((ALLOC, REDUCE), "memory"),
        (("(memory 1)", ALLOC, REDUCE), "memory"),
        (('(global (export "memory") i32 (i32.const 0))', ALLOC, REDUCE), "memory"),
        ((MEMORY, REDUCE), "alloc"),
        ((MEMORY, ALLOC.replace("(param i32)", "(param i64)"), REDUCE), "alloc"),
        ((MEMORY, ALLOC.replace("(param i32)", ""), REDUCE), "alloc"),
        ((MEMORY, ALLOC), "reduce"),
        ((MEMORY, ALLOC, REDUCE.replace("i64", "i32")), "reduce"),
        ((MEMORY, ALLOC, '(func (export "reduce") (param i32 i32) (result i32 i32) (unreachable))'), "reduce"),
        ((MEMORY, ALLOC, '(func (export "reduce") (param i32 i32 i32) (result i64) (i64.const 0))'), "reduce"),
        ((MEMORY, ALLOC, '(global (export "reduce") i32 (i32.const 0))'), "reduce"),
    ],
)
def test_a_missing_or_different_export_is_named(sandbox: WasmSandbox, parts: tuple[str, ...], words: str) -> None:
    refuse(sandbox, whole(*parts), words)


@pytest.mark.box("S0.3", "sandbox-same")
@pytest.mark.parametrize(
    "thing",
    ['(func)', "(memory 1)", "(global i32)", "(table 1 funcref)"],
)  # fmt: skip
def test_an_import_of_anything_is_refused(sandbox: WasmSandbox, thing: str) -> None:
    name = "wasi_snapshot_preview1" if thing == "(func)" else "env"
    refuse(sandbox, wasm(f'(module (import "{name}" "x" {thing}) {ALLOC} {REDUCE})'), "import")


FEATURES = {
    "threads": ('(memory (export "memory") 1 1 shared)', "(func (drop (i32.atomic.load (i32.const 0))))"),
    "simd": (MEMORY, "(func (drop (i8x16.splat (i32.const 1))))"),
    "simd type": (MEMORY, "(func (param v128))"),
    "relaxed simd": (MEMORY, "(func (param v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))"),
    "two memories": (MEMORY, "(memory 1)"),
    "two tables": (MEMORY, "(table 1 funcref) (table 1 funcref)"),
    "a large table": (MEMORY, "(table 20001 funcref)"),
    "externref": (MEMORY, "(table 1 externref)"),
    "tail calls": (MEMORY, "(func $f (return_call $f))"),
    "memory64": ('(memory (export "memory") i64 1)', ""),
    "page sizes": ('(memory (export "memory") 1 (pagesize 1))', ""),
    "exceptions": (MEMORY, "(tag)"),
    "gc": (MEMORY, "(type (struct (field i32)))"),
    "function references": (MEMORY, "(type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0)))"),
    "wide arithmetic": (
        MEMORY,
        "(func (result i64 i64) (i64.mul_wide_u (i64.const 1) (i64.const 1)))",
    ),
}


@pytest.mark.box("S0.3", "sandbox-same")
@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_is_off_is_refused(sandbox: WasmSandbox, feature: str) -> None:
    memory, extra = FEATURES[feature]
    refuse(sandbox, whole(memory, ALLOC, REDUCE, extra))


@pytest.mark.parametrize(
    "extra",
    [
        "(func (result i64) (i64.extend8_s (i64.const 1)))",
        "(func (result i64) (i64.trunc_sat_f64_s (f64.const 1)))",
        "(func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))",
        "(func (result i32 i32) (i32.const 0) (i32.const 0))",
        '(global (export "g") (mut i32) (i32.const 0))',
        "(table 1 funcref) (func (drop (table.get 0 (i32.const 0))))",
    ],
    ids=["sign extension", "saturating", "bulk memory", "several values", "exported variable", "reference types"],
)
def test_a_feature_that_compilers_use_is_on(sandbox: WasmSandbox, extra: str) -> None:
    sandbox.check(whole(MEMORY, ALLOC, REDUCE, extra), ENTRIES)


def test_more_memory_than_any_call_may_have_is_refused(sandbox: WasmSandbox) -> None:
    sandbox.check(module(memory="1024"), ENTRIES)
    refuse(sandbox, module(memory="1025"))
    sandbox.check(module(memory="1 65536"), ENTRIES)


def test_a_start_function_is_allowed(sandbox: WasmSandbox) -> None:
    sandbox.check(module(extra="(func $s) (start $s)"), ENTRIES)


@pytest.mark.parametrize(
    "code",
    [b"", b"\0", b"\0asm", b"\0asm\x02\0\0\0", b"\0asm\x0d\0\1\0", b"(module)", b"\x7fELF" + bytes(100), bytes(1000)],
)
def test_what_is_no_binary_module_is_refused(sandbox: WasmSandbox, code: bytes) -> None:
    refuse(sandbox, code)


def test_other_types_than_bytes_are_refused(sandbox: WasmSandbox) -> None:
    for thing in (bytearray(module()), memoryview(module()), "(module)", None):
        with pytest.raises(InvalidModule):
            sandbox.check(thing, ENTRIES)  # type: ignore[arg-type]


def test_the_size_is_judged_before_anything_else(sandbox: WasmSandbox) -> None:
    padding = section(0, b"\1x" + bytes(structure.MAX_CODE_BYTES - len(module()) - 7))
    at_limit = module() + padding
    assert len(at_limit) == structure.MAX_CODE_BYTES
    sandbox.check(at_limit, ENTRIES)
    refuse(sandbox, at_limit + section(0, b"\0"), "exceed")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("".join(f"(func (result i32) (i32.const {n}))" for n in range(20_001)), "functions"),
        (f"(func (local {'i64 ' * 2001}))", "locals"),
        ("(global i32 (i32.const 0))" * 1001, "globals"),
        ("".join(f'(export "e{n}" (func 0))' for n in range(1001)), "exports"),
        ('(data "")' * 5001, "data segments"),
        ("(elem funcref)" * 5001, "element segments"),
        (
            "".join(f"(type (func {'(param i32)' * (n % 70)} {'(result i64)' * (n // 70)}))" for n in range(5001)),
            "types",
        ),
        (f"(func {'(nop)' * 65536})", "body"),
        (f"(func {'(nop)' * 60_000})" * 6, "large functions"),
    ],
    ids=["functions", "locals", "globals", "exports", "data", "elements", "types", "function size", "effort"],
)
def test_too_many_parts_are_refused(sandbox: WasmSandbox, parts: str, words: str) -> None:
    refuse(sandbox, module(extra=parts), words)


@pytest.mark.parametrize(
    "tail",
    [
        b"\x01",
        b"\x01\x80",
        b"\x01\x80\x80\x80\x80\x80\x01",
        b"\x01\xff\xff\xff\xff\x7f",
        b"\x01\x05\x01",
        section(10, leb(1) + leb(100)),
        section(10, leb(1) + leb(2) + b"\xff\xff"),
        section(3, b""),
        section(99, b"??"),
        section(13, b"\1\0\0"),
    ],
)
def test_a_broken_frame_is_refused(sandbox: WasmSandbox, tail: bytes) -> None:
    refuse(sandbox, b"\0asm\x01\0\0\0" + tail)


def test_machine_code_is_not_made_for_the_processor_at_hand() -> None:
    """Its frames, and so the depth of a recursion, would else differ between machines of one architecture."""
    popcnt = bytes.fromhex("f3480fb8")
    code = module("(i64.popcnt (i64.extend_i32_u (local.get $len)))")
    _, plain = Engine(parallel_calls=1).compile(code)
    assert popcnt not in plain
    if platform.machine() == "x86_64" and " popcnt " in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        assert popcnt in wasmtime.Module(wasmtime.Engine(), code).serialize()


def mutant(generator: random.Random, code: bytes) -> bytes:
    """Returns the code with some of it changed, cut, doubled or moved."""
    data = bytearray(code)
    for _ in range(generator.choice((1, 1, 1, 2, 4, 8))):
        place, other = generator.randrange(len(data)), generator.randrange(len(data))
        match generator.randrange(6):
            case 0:
                data[place] ^= 1 << generator.randrange(8)
            case 1:
                data[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, 0x40, 0x10, 0x0B, generator.randrange(256)))
            case 2:
                del data[place : place + generator.randrange(1, 9)]
            case 3:
                data[place:place] = data[other : other + generator.randrange(1, 17)]
            case 4:
                data[place : place + 4] = generator.randbytes(4)
            case 5:
                data[place], data[other] = data[other], data[place]
        if not data:
            return b""
    return bytes(data)


def test_mutated_modules_never_do_worse_than_fail() -> None:
    """``AGENTWORLD_MUTANTS=100000`` tries more, ``AGENTWORLD_MUTANT_SEED`` other ones."""
    count = int(os.environ.get("AGENTWORLD_MUTANTS", "2000"))
    seed = int(os.environ.get("AGENTWORLD_MUTANT_SEED", "20"))
    print(f"mutants {count} seed {seed}")
    generator = random.Random(seed)
    sandbox = WasmSandbox()
    indirect = "(call_indirect (param i32 i32) (result i64) (local.get $at) (local.get $len) (i32.const 1))"
    start = "(func $s (memory.fill (i32.const 9) (i32.const 1) (i32.const 99))) (start $s)"
    table = '(table 2 funcref) (elem (i32.const 0) $pack $pack) (data (i32.const 8) "some data")'
    originals = [
        module(f"(drop {indirect}) {ECHO}", extra=table),
        module(f"(loop $l (br_if $l (i32.lt_u (memory.grow (i32.const 1)) (i32.const 9)))) {ECHO}"),
        module(f"(memory.copy (i32.const 0) (local.get $at) (local.get $len)) {ECHO}", extra=start),
        (Path(__file__).parents[3] / "examples" / "modules" / "counter" / "counter.wasm").read_bytes(),
    ]
    limits = CallLimits(fuel=100_000, memory_bytes=2**20, output_bytes=1000)
    ran = 0
    resident = 0
    for number in range(count):
        code = mutant(generator, generator.choice(originals))
        artifact = content_id(code)
        with contextlib.suppress(InvalidModule, CallFailed):
            sandbox.check(code, ENTRIES)
            ran += 1
            result = sandbox.call(ModuleCall(artifact=artifact, entry="reduce", input=b"0123456789", limits=limits))
            assert len(result.output) <= limits.output_bytes
            assert result.fuel_used <= limits.fuel
        if number == count // 2:
            resident = resident_bytes()
    assert count // 100 < ran < count
    assert resident_bytes() - resident < 64 * 2**20


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_calls_do_not_make_the_process_grow() -> None:
    sandbox = WasmSandbox()
    fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 9000000))"
    code = module(f"(drop (memory.grow (i32.const 200))) {fill} {ECHO}")
    sandbox.load(artifact := content_id(code), code)
    limits = CallLimits(fuel=10_000_000, memory_bytes=2**24, output_bytes=1000)

    def after(calls: int) -> int:
        for _ in range(calls):
            sandbox.call(ModuleCall(artifact=artifact, entry="reduce", input=bytes(100), limits=limits))
        return resident_bytes()

    assert after(5) + 16 * 2**20 > after(30)
