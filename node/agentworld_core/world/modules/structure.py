"""What a module may be made of: bounds on its sections, judged before anything compiles it.

The bounds are part of the rules of every world: they are no settings, because a module that one node takes and another
refuses would split the world. They keep compilation short and instances small. Whether the code in the sections is
valid is for the engine to say; here only the frame around it is read, and by ``exports`` what a module exports.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentworld_core.world.modules.sandbox import InvalidModule

MAX_CODE_BYTES = 4 * 1024 * 1024
MAX_TYPES = 5_000
MAX_FUNCTIONS = 20_000
MAX_FUNCTION_BYTES = 64 * 1024
MAX_COMPILE_EFFORT = 2**34
"""The sum of the squares of the sizes of the functions, because the time to compile one grows with the square."""
MAX_LOCALS = 2_000
MAX_GLOBALS = 1_000
MAX_EXPORTS = 1_000
MAX_SEGMENTS = 5_000
MAX_TABLE_ELEMENTS = 20_000
MAX_MEMORY_BYTES = 64 * 1024 * 1024
PAGE_BYTES = 64 * 1024

_MAGIC = b"\0asm\x01\0\0\0"
_TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _GLOBAL, _EXPORT, _START, _ELEMENT, _CODE, _DATA = range(1, 12)
_MAX_ITEMS = {
    _TYPE: (MAX_TYPES, "types"),
    _IMPORT: (0, "imports"),
    _FUNCTION: (MAX_FUNCTIONS, "functions"),
    _TABLE: (1, "tables"),
    _MEMORY: (1, "memories"),
    _GLOBAL: (MAX_GLOBALS, "globals"),
    _EXPORT: (MAX_EXPORTS, "exports"),
    _ELEMENT: (MAX_SEGMENTS, "element segments"),
    _CODE: (MAX_FUNCTIONS, "function bodies"),
    _DATA: (MAX_SEGMENTS, "data segments"),
}


def check_structure(code: bytes) -> None:
    """Raises InvalidModule unless the bytes are framed as a module whose parts all stay within their bounds."""
    if type(code) is not bytes:
        raise InvalidModule("a module must be bytes", value=type(code).__name__)
    if len(code) > MAX_CODE_BYTES:
        raise InvalidModule(f"{len(code)} bytes exceed the limit of {MAX_CODE_BYTES}", remedy="strip debug sections")
    if code[: len(_MAGIC)] != _MAGIC:
        raise InvalidModule("does not start as a binary WebAssembly module of version 1", value=code[:8].hex())
    for section, body in sections_of(code):
        _check_section(section, body)


def sections_of(code: bytes) -> Iterator[tuple[int, SectionReader]]:
    """Yields number and content of each section; raises InvalidModule where the frame is broken."""
    reader = SectionReader(code, len(_MAGIC), len(code))
    while reader.more():
        section = reader.byte()
        size = reader.number()
        yield section, reader.part(size)


def _check_section(section: int, body: SectionReader) -> None:
    if section not in _MAX_ITEMS:
        # Custom sections are not read, a start function runs within the limits of the call, and a data count is
        # compared with the data section by wasmtime, which also refuses sections of features that are off.
        return
    most, what = _MAX_ITEMS[section]
    count = body.number()
    if section == _IMPORT and count:
        raise InvalidModule("imports something, but a module is given nothing", field="imports", value=count)
    if count > most:
        raise InvalidModule(f"a module may have at most {most}", field=what, value=count)
    if section == _CODE:
        _check_functions(body, count)


def _check_functions(body: SectionReader, count: int) -> None:
    effort = 0
    for _ in range(count):
        size = body.number()
        if size > MAX_FUNCTION_BYTES:
            raise InvalidModule(
                f"the body of a function may have at most {MAX_FUNCTION_BYTES} bytes",
                field="functions",
                value=size,
                remedy="compile with less inlining",
            )
        effort += size * size
        if effort > MAX_COMPILE_EFFORT:
            raise InvalidModule(
                "has too many large functions to be compiled in reasonable time",
                field="functions",
                remedy="compile with less inlining",
            )
        _check_locals(body.part(size))


def _check_locals(body: SectionReader) -> None:
    total = 0
    for _ in range(body.number()):
        total += body.number()
        if total > MAX_LOCALS:
            raise InvalidModule(f"a function may have at most {MAX_LOCALS}", field="locals", value=total)
        body.skip_type()


class SectionReader:
    """Reads a part of the code, never beyond its end; InvalidModule where there is less than should be."""

    __slots__ = ("_code", "_end", "_position")

    def __init__(self, code: bytes, start: int, end: int):
        self._code = code
        self._position = start
        self._end = end

    def more(self) -> bool:
        """True before the end."""
        return self._position < self._end

    def byte(self) -> int:
        """Returns the next byte."""
        if self._position >= self._end:
            raise InvalidModule("ends in the middle of a section", field="position", value=self._position)
        value = self._code[self._position]
        self._position += 1
        return value

    def number(self) -> int:
        """Returns an unsigned 32-bit number in LEB128."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**32:
                    break
                return value
        raise InvalidModule("holds a number of more than 32 bits", field="position", value=self._position)

    def part(self, size: int) -> SectionReader:
        """Returns a reader of the next ``size`` bytes and goes on behind them."""
        start = self._position
        if size > self._end - start:
            raise InvalidModule("holds a section that is longer than the rest", field="position", value=start)
        self._position = start + size
        return SectionReader(self._code, start, self._position)

    def skip_type(self) -> None:
        """Goes on behind a value type: one byte, or two bytes and a heap type of more."""
        self.value_type()

    def value_type(self) -> int:
        """Returns the first byte of a value type and goes on behind it."""
        found = self.byte()
        if found in (0x63, 0x64):
            self.number()
        return found

    def take(self, size: int) -> bytes:
        """Returns the next ``size`` bytes and goes on behind them."""
        start = self._position
        self.part(size)
        return self._code[start : start + size]
