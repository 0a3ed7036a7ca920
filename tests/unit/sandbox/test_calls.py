"""What a call gives back, and that nothing which a module does can turn into anything else."""

from __future__ import annotations

import dataclasses
import struct
import threading

import pytest

from agentworld_core.errors import HashMismatch, InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.world.modules.sandbox import CallFailed, CallLimits, CallResult, ModuleCall, SandboxFault
from agentworld_node.sandbox import SandboxSettings, WasmSandbox
from tests.unit.sandbox.wat import ECHO, LIMITS, module, run, wasm

FOREVER = "(loop $again (br $again)) (unreachable)"
PAGE = 65536


def failure(sandbox: WasmSandbox, code: bytes, data: bytes = b"", limits: CallLimits = LIMITS) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        run(sandbox, code, data, limits=limits)
    return caught.value


def result_of(value: str, *, extra: str = "", memory: str = "1") -> bytes:
    """A module that answers with the eight bytes of an i64."""
    return module(
        f"(i64.store (i32.const 0) {value}) (call $pack (i32.const 0) (i32.const 8))", extra=extra, memory=memory
    )


def test_the_output_is_what_the_entry_points_at(sandbox: WasmSandbox) -> None:
    assert run(sandbox, module(), b"hello").output == b"hello"


def test_an_empty_input_and_an_empty_output_are_allowed(sandbox: WasmSandbox) -> None:
    assert run(sandbox, module()).output == b""
    assert run(sandbox, module("(call $pack (i32.const 65536) (i32.const 0))")).output == b""


def test_the_output_may_lie_over_the_input(sandbox: WasmSandbox) -> None:
    """A module may give its input's memory back before it makes its answer."""
    code = module("(i32.store8 (local.get $at) (i32.const 33)) (call $pack (local.get $at) (i32.const 3))")
    assert run(sandbox, code, b"hello").output == b"!el"


def test_each_call_has_an_instance_of_its_own(sandbox: WasmSandbox) -> None:
    count = "(i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))"
    code = module(f"{count} (call $pack (i32.const 0) (i32.const 1))")
    assert [run(sandbox, code).output for _ in range(20)] == [b"\1"] * 20


def test_fuel_is_counted_the_same_each_time_and_grows_with_the_work(sandbox: WasmSandbox) -> None:
    loop = "(loop $l (br_if $l (local.tee $len (i32.sub (local.get $len) (i32.const 1)))))"
    code = module(f"{loop} (i64.const 0)")
    used = [run(sandbox, code, bytes(n)).fuel_used for n in (10, 10, 1000)]
    assert used[0] == used[1] < used[2]


@pytest.mark.box("S0.3", "fuel")
def test_a_call_that_has_exactly_its_fuel_succeeds_and_one_unit_less_fails(sandbox: WasmSandbox) -> None:
    used = run(sandbox, module(), b"x").fuel_used
    enough = dataclasses.replace(LIMITS, fuel=used)
    assert run(sandbox, module(), b"x", limits=enough).fuel_used == used
    assert failure(sandbox, module(), b"x", dataclasses.replace(LIMITS, fuel=used - 1)).reason_code == "out_of_fuel"
    assert failure(sandbox, module(), b"x", dataclasses.replace(LIMITS, fuel=0)).reason_code == "out_of_fuel"


@pytest.mark.box("S0.3", "fuel")
@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (FOREVER, ""),
        ("(loop $l (drop (memory.grow (i32.const 0))) (br $l)) (unreachable)", ""),
        ("(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) (br $l)) (unreachable)", ""),
        ("(loop $l (memory.copy (i32.const 1) (i32.const 0) (i32.const 65535)) (br $l)) (unreachable)", ""),
        (
            "(loop $l (table.fill 0 (i32.const 0) (ref.null func) (i32.const 9000)) (br $l)) (unreachable)",
            "(table 9000 funcref)",
        ),
        (ECHO, f"(func $start {FOREVER}) (start $start)"),
    ],
    ids=["loop", "grow by nothing", "fill", "copy", "table fill", "start function"],
)
def test_what_never_ends_runs_out_of_fuel(sandbox: WasmSandbox, body: str, extra: str) -> None:
    assert failure(sandbox, module(body, extra=extra)).reason_code == "out_of_fuel"


def test_an_allocator_that_never_ends_runs_out_of_fuel(sandbox: WasmSandbox) -> None:
    alloc = f'(func (export "alloc") (param i32) (result i32) {FOREVER})'
    assert failure(sandbox, module(alloc=alloc)).reason_code == "out_of_fuel"


TRAPS = {
    "unreachable": ("(unreachable)", ""),
    "division by zero": ("(i64.div_u (i64.const 1) (i64.const 0))", ""),
    "overflow": ("(i64.div_s (i64.const 0x8000000000000000) (i64.const -1))", ""),
    "conversion": ("(i64.trunc_f64_s (f64.const nan))", ""),
    "load": ("(i64.load (i32.const 65529))", ""),
    "load far away": ("(i64.load offset=4294967295 (i32.const -1))", ""),
    "store": ("(i64.store (i32.const -8) (i64.const 1)) (i64.const 0)", ""),
    "fill": ("(memory.fill (i32.const 65535) (i32.const 1) (i32.const 2)) (i64.const 0)", ""),
    "copy": ("(memory.copy (i32.const 0) (i32.const 65535) (i32.const 2)) (i64.const 0)", ""),
    "init": ("(memory.init $d (i32.const 0) (i32.const 2) (i32.const 2)) (i64.const 0)", '(data $d "abc")'),
    "recursion": ("(call $reduce (local.get $at) (local.get $len))", ""),
    "null call": ("(call_indirect (result i64) (i32.const 0))", "(table 1 funcref)"),
    "wrong type": ("(call_indirect (result i64) (i32.const 0))", "(table funcref (elem $pack))"),
    "table bounds": ("(call_indirect (result i64) (i32.const 1))", "(table 1 funcref)"),
    "start": (ECHO, "(func $start (unreachable)) (start $start)"),
    "data out of bounds": (ECHO, '(data (i32.const 65535) "ab")'),
    "elements out of bounds": (ECHO, "(table 1 funcref) (elem (i32.const 1) $pack)"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_fails_the_call_in_the_same_words_each_time(sandbox: WasmSandbox, name: str) -> None:
    body, extra = TRAPS[name]
    code = module(body, extra=extra)
    limits = dataclasses.replace(LIMITS, fuel=10_000_000)
    first, second = failure(sandbox, code, limits=limits), failure(sandbox, code, limits=limits)
    assert first.reason_code == second.reason_code == "trap"
    assert str(first) == str(second)


def test_a_frame_of_many_locals_cannot_pass_the_end_of_the_stack(sandbox: WasmSandbox) -> None:
    sums = "".join(f"(i64.add (local.get $v{n})" for n in range(300))
    sets = "".join(f"(local.set $v{n} (i64.load (i32.const {n * 8})))" for n in range(300))
    decl = "".join(f"(local $v{n} i64)" for n in range(300))
    deep = f"(func $deep (result i64) {decl} {sets} (drop (call $deep)) {sums} (i64.const 0){')' * 300})"
    assert failure(sandbox, module("(call $deep)", extra=deep)).reason_code == "trap"


@pytest.mark.parametrize(
    "answer",
    [
        "(call $pack (i32.const 65536) (i32.const 1))",
        "(call $pack (i32.const 65530) (i32.const 7))",
        "(call $pack (i32.const 0) (i32.const 65537))",
        "(call $pack (i32.const -1) (i32.const 1))",
        "(call $pack (i32.const 1) (i32.const -1))",
        "(call $pack (i32.const -1) (i32.const -1))",
        "(i64.const -1)",
        "(i64.const 0x8000000000000001)",
        "(i64.const 0x7fffffffffffffff)",
        "(i64.const 0x00000000ffffffff)",
    ],
)
def test_an_output_outside_the_memory_is_invalid(sandbox: WasmSandbox, answer: str) -> None:
    assert failure(sandbox, module(answer)).reason_code == "invalid_output"


@pytest.mark.parametrize("place", [65536, 65535, -1, -5, 0x7FFFFFFF])
def test_an_allocator_that_points_outside_the_memory_is_invalid(sandbox: WasmSandbox, place: int) -> None:
    alloc = f'(func (export "alloc") (param i32) (result i32) (i32.const {place}))'
    assert failure(sandbox, module(alloc=alloc), b"hello").reason_code == "invalid_output"


def test_an_output_over_its_limit_is_too_large(sandbox: WasmSandbox) -> None:
    assert run(sandbox, module(f"(call $pack (i32.const 0) (i32.const {LIMITS.output_bytes}))")).output == bytes(1024)
    code = module(f"(call $pack (i32.const 0) (i32.const {LIMITS.output_bytes + 1}))")
    assert failure(sandbox, code).reason_code == "output_too_large"


def test_memory_grows_up_to_the_limit_of_the_call_and_no_further(sandbox: WasmSandbox) -> None:
    grown = "(i64.extend_i32_s (memory.grow (i32.const {})))"
    limits = dataclasses.replace(LIMITS, memory_bytes=3 * PAGE)
    for pages, answer in ((2, 1), (3, -1), (1000, -1), (65536, -1)):
        output = run(sandbox, result_of(grown.format(pages)), limits=limits).output
        assert output == struct.pack("<q", answer), pages


def test_memory_grows_up_to_what_the_module_declares(sandbox: WasmSandbox) -> None:
    code = result_of("(i64.extend_i32_s (memory.grow (i32.const 2)))", memory="1 2")
    assert run(sandbox, code).output == struct.pack("<q", -1)


def test_a_start_function_grows_no_further_than_the_call_may(sandbox: WasmSandbox) -> None:
    grow = "(drop (table.grow (ref.null func) (i32.const 30000))) (global.set $got (memory.grow (i32.const {})))"
    parts = "(table 1 funcref) (global $got (mut i32) (i32.const 0)) (start $s) (func $s {})"
    limits = dataclasses.replace(LIMITS, memory_bytes=3 * PAGE)
    for pages, answer in ((2, 1), (3, -1)):
        code = result_of("(i64.extend_i32_s (global.get $got))", extra=parts.format(grow.format(pages)))
        assert run(sandbox, code, limits=limits).output == struct.pack("<q", answer)


def test_a_module_that_needs_more_memory_than_the_call_has_traps(sandbox: WasmSandbox) -> None:
    limits = dataclasses.replace(LIMITS, memory_bytes=2 * PAGE)
    assert run(sandbox, module(memory="2"), limits=limits).output == b""
    assert failure(sandbox, module(memory="3"), limits=limits).reason_code == "trap"


def test_an_input_larger_than_the_memory_of_the_call_traps(sandbox: WasmSandbox) -> None:
    assert failure(sandbox, module(), bytes(LIMITS.memory_bytes + 1)).reason_code == "trap"


def test_a_table_grows_up_to_its_limit(sandbox: WasmSandbox) -> None:
    grow = "(i64.extend_i32_s (table.grow (ref.null func) (i32.const {})))"
    for by, answer in ((19_999, 1), (20_000, -1)):
        code = result_of(grow.format(by), extra="(table 1 funcref)")
        assert run(sandbox, code).output == struct.pack("<q", answer)


@pytest.mark.box("S0.3", "sandbox-same")
@pytest.mark.parametrize(
    "expression",
    [
        "(f64.div (f64.const 0) (f64.const 0))",
        "(f64.sqrt (f64.const -1))",
        "(f64.add (f64.const nan:0x123456) (f64.const 1))",
        "(f64.mul (f64.const -nan:0x4000000000001) (f64.const 2))",
        "(f64.min (f64.const nan:0x1) (f64.const nan:0x2))",
        "(f64.promote_f32 (f32.const nan:0x200001))",
        "(f64.sub (f64.const inf) (f64.const inf))",
    ],
)
def test_a_computed_nan_has_one_form(sandbox: WasmSandbox, expression: str) -> None:
    output = run(sandbox, result_of(f"(i64.reinterpret_f64 {expression})")).output
    assert output == struct.pack("<Q", 0x7FF8000000000000)


def test_an_entry_that_the_module_does_not_have_fails_the_call(sandbox: WasmSandbox) -> None:
    for entry in ("call", "alloc", "memory", "", "\0"):
        with pytest.raises(CallFailed, match="no entry") as caught:
            run(sandbox, module(), entry=entry)
        assert caught.value.reason_code == "trap"


def test_what_is_not_loaded_is_a_key_error_and_what_was_loaded_is_known(sandbox: WasmSandbox) -> None:
    code = module("(i64.const 0) (; only here ;)", extra='(func (export "other"))')
    artifact = content_id(code)
    assert not sandbox.has(artifact)
    with pytest.raises(KeyError):
        sandbox.call(ModuleCall(artifact=artifact, entry="reduce", input=b"", limits=LIMITS))
    sandbox.load(artifact, code)
    assert sandbox.has(artifact)


@pytest.mark.box("S16.1", "checked")
def test_a_module_under_another_content_id_is_refused(sandbox: WasmSandbox) -> None:
    with pytest.raises(HashMismatch):
        sandbox.load(content_id(b"something else"), module())


@pytest.mark.box("S16.1", "bounded")
def test_the_module_used_longest_ago_is_forgotten_first() -> None:
    small = WasmSandbox(settings=SandboxSettings(cached_modules=2))
    codes = [module(f"(i64.const {n})", extra=f"(global i32 (i32.const {n}))") for n in range(3)]
    ids = [content_id(code) for code in codes]
    small.load(ids[0], codes[0])
    small.load(ids[1], codes[1])
    small.load(ids[0], codes[0])
    small.load(ids[2], codes[2])
    assert [small.has(artifact) for artifact in ids] == [True, False, True]


@pytest.mark.box("S16.1", "bounded")
def test_modules_in_memory_are_bounded_in_bytes_too() -> None:
    small = WasmSandbox(settings=SandboxSettings(cached_module_bytes=1))
    first, second = module(), module("(i64.const 0)")
    small.load(content_id(first), first)
    small.load(content_id(second), second)
    assert [small.has(content_id(code)) for code in (first, second)] == [False, True]


@pytest.mark.box("S0.3", "sandbox-limits")
def test_more_than_the_node_offers_is_a_fault_of_the_node(sandbox: WasmSandbox) -> None:
    for change in ({"fuel": 10**9}, {"memory_bytes": 2**32}, {"output_bytes": 2**32}, {"fuel": -1}):
        with pytest.raises(SandboxFault, match="offers at most"):
            run(sandbox, module(), limits=dataclasses.replace(LIMITS, **change))


@pytest.mark.box("S0.3", "fuel")
def test_the_watchdog_makes_a_fault_and_never_a_result() -> None:
    impatient = WasmSandbox(settings=SandboxSettings(max_fuel=10**15, watchdog_ms=20))
    with pytest.raises(SandboxFault, match="watchdog"):
        run(impatient, module(FOREVER), limits=dataclasses.replace(LIMITS, fuel=10**15))
    start = module(extra=f"(func $start {FOREVER}) (start $start)")
    with pytest.raises(SandboxFault, match="watchdog"):
        run(impatient, start, limits=dataclasses.replace(LIMITS, fuel=10**15))
    assert run(impatient, module(), b"and it goes on").output == b"and it goes on"


def test_calls_from_several_threads_do_not_disturb_each_other(sandbox: WasmSandbox) -> None:
    code = module(f"{'(nop)' * 50} {ECHO}")
    results: list[CallResult] = []

    def work(number: int) -> None:
        results.extend(run(sandbox, code, b"%d" % number * 100) for _ in range(50))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.output for result in results) == sorted(b"%d" % n * 100 for n in range(6) for _ in range(50))
    assert len({result.fuel_used for result in results}) == 1


@pytest.mark.parametrize(
    "setting",
    [{"max_fuel": 0}, {"watchdog_ms": -1}, {"max_memory_bytes": 2**30}, {"cached_modules": True}, {"max_fuel": 2**63}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InvalidField):
        SandboxSettings(**setting)


def test_a_hand_written_module_may_use_address_zero(sandbox: WasmSandbox) -> None:
    code = wasm("""(module (memory (export "memory") 1)
      (func (export "alloc") (param i32) (result i32) (i32.const 0))
      (func (export "call") (param i32 i32) (result i64) (i64.extend_i32_u (local.get 1))))""")
    assert run(sandbox, code, b"abc", entry="call").output == b"abc"
