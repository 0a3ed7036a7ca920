"""What a module exports, read without an engine: enough to say that a file is not what its manifest names.

An engine says the same and more (whether the code in the functions is valid). This is for those who have none, such as
an operator that is handed a module for the genesis of a world.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentworld_core.world.modules.sandbox import InvalidModule
from agentworld_core.world.modules.structure import SectionReader, check_structure, sections_of

ALLOC = "alloc"
MEMORY = "memory"

_TYPE, _FUNCTION, _EXPORT, _CODE = 1, 3, 7, 10
_FUNCTION_TYPE = 0x60
_OF_FUNCTION, _OF_MEMORY = 0, 2
_I32, _I64 = 0x7F, 0x7E

Signature = tuple[tuple[int, ...], tuple[int, ...]]

_ALLOC_TYPE: Signature = ((_I32,), (_I32,))
_ENTRY_TYPE: Signature = ((_I32, _I32), (_I64,))


@dataclass
class _Found:
    """What the sections of a module declare, by their indexes; a module imports nothing, so these begin at 0."""

    types: list[Signature] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)
    bodies: int = 0

    def signature(self, name: str) -> Signature | None:
        """Returns the type of an exported function; None when there is none of that name."""
        kind, index = self.exports.get(name, (-1, 0))
        if kind != _OF_FUNCTION or index >= len(self.functions) or self.functions[index] >= len(self.types):
            return None
        return self.types[self.functions[index]]


def check_exports(code: bytes, entries: tuple[str, ...]) -> None:
    """Raises InvalidModule unless the bytes pass ``check_structure`` and export memory, ``alloc`` and these entries."""
    check_structure(code)
    found = _Found()
    for section, body in sections_of(code):
        if section == _TYPE:
            found.types += [_type(body) for _ in range(body.number())]
        elif section == _FUNCTION:
            found.functions += [body.number() for _ in range(body.number())]
        elif section == _EXPORT:
            for _ in range(body.number()):
                name = body.take(body.number()).decode("utf-8", "replace")
                found.exports[name] = (body.byte(), body.number())
        elif section == _CODE:
            found.bodies += body.number()
    if found.bodies != len(found.functions):
        raise InvalidModule(f"declares {len(found.functions)} functions", field="functions", value=found.bodies)
    if found.exports.get(MEMORY, (-1, 0))[0] != _OF_MEMORY:
        raise InvalidModule("must export its memory", field=MEMORY)
    if found.signature(ALLOC) != _ALLOC_TYPE:
        raise InvalidModule("must export a function that takes an i32 and returns an i32", field=ALLOC)
    for entry in entries:
        if entry == ALLOC or found.signature(entry) != _ENTRY_TYPE:
            raise InvalidModule(
                f"must export a function {entry} that takes two i32 and returns an i64", field="exports", value=entry
            )


def _type(body: SectionReader) -> Signature:
    form = body.byte()
    if form != _FUNCTION_TYPE:
        raise InvalidModule("declares a type that is not one of functions", field="types", value=hex(form))
    return _values(body), _values(body)


def _values(body: SectionReader) -> tuple[int, ...]:
    return tuple([body.value_type() for _ in range(body.number())])
