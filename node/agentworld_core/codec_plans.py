"""How the fields of each message are checked and converted; worked out once per class.

There are two ways to do it, with one meaning. The *quick* functions check a whole message in one expression, which is
made from source text as ``dataclasses`` makes ``__init__``; they say only that something is wrong. What they refuse
goes through the *naming* functions, field by field, which raise the error that names the field.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Union

from agentworld_core.codec_values import Refused, Value, checked_value, is_unicode, quick_value
from agentworld_core.errors import MalformedEncoding

Convert = Callable[[Any], Any]
Named = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A named check on a decoded field value; ``says`` completes the sentence "field must be ...".

    ``quick`` is the same check as an expression over ``{v}``, for values that have the field's type; it may call
    ``test``.
    """

    check: Callable[[Any], bool]
    says: str
    quick: str
    test: Callable[[Any], object] | None = None


class FieldCodec:
    """Checks and converts one field both ways.

    ``condition`` is the quick check as an expression over ``{v}``, empty for none, with the ``names`` that it uses;
    ``quick_encode`` and ``quick_decode`` convert what has passed it, and are None where nothing is converted.
    ``message`` is the class of a nested message, or of the items of a sequence of messages (``is_sequence``).
    """

    __slots__ = (
        "condition",
        "decode",
        "encode",
        "has_value",
        "is_sequence",
        "message",
        "names",
        "quick_decode",
        "quick_encode",
        "rules",
    )

    def __init__(self, encode: Named, decode: Named):
        self.encode = encode
        self.decode = decode
        self.condition = ""
        self.names: dict[str, Any] = {}
        self.quick_encode: Convert | None = None
        self.quick_decode: Convert | None = None
        self.message: type[Any] | None = None
        self.is_sequence = False
        self.has_value = False
        self.rules: tuple[Rule, ...] = ()

    def check_rules(self, value: Any) -> None:
        """Raises Refused unless a sequence keeps the rules for it as a whole."""
        for rule in self.rules:
            if not rule.check(value):
                raise Refused


class Plan:
    """Everything about the encoding of one class.

    ``is_joined`` says that some message inside keeps its encoding; ``values_of`` returns the fields of a message where
    none of them is converted to be encoded.
    """

    __slots__ = ("build", "fields", "has_values", "is_joined", "number", "places", "sequences", "to_plain", "values_of")

    def __init__(self, cls: type[Any]):
        hints = typing.get_type_hints(cls, include_extras=True)
        self.number: int = cls.SCHEMA_NUMBER
        self.fields = [(field.name, compile_field(hints[field.name])) for field in dataclasses.fields(cls)]
        self.is_joined = any(_keeps_inside(codec.message) for _, codec in self.fields)
        self.places = {name: index for index, (name, _) in enumerate(self.fields, 1)}
        self.sequences = [name for name, codec in self.fields if codec.is_sequence]
        self.has_values = any(codec.has_value for _, codec in self.fields)
        self.to_plain, self.build = _quick_functions(cls, self)
        plain = len(self.fields) > 1 and all(codec.quick_encode is None for _, codec in self.fields)
        self.values_of = operator.attrgetter(*self.places) if plain else None


def _keeps_inside(cls: type[Any] | None) -> bool:
    return cls is not None and (cls.KEEPS_ENCODING or plan_of(cls).is_joined)


_plans: dict[type[Any], Plan] = {}
_serial = itertools.count()


def plan_of(cls: type[Any]) -> Plan:
    """Returns the plan of a message class, made when it is asked for first."""
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = Plan(cls)
    return plan


def compile_field(hint: Any) -> FieldCodec:
    """Returns the codec of a field with this annotation; raises TypeError for one that has no encoding."""
    rules: tuple[Rule, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        rules = tuple(extra for extra in extras if isinstance(extra, Rule))
    if hint == Value:
        return _value_field()
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        if len(inner) == len(typing.get_args(hint)):
            return _one_of(tuple(inner))
        return _optional(compile_field(inner[0]))
    if origin is tuple:
        return _sequence(compile_field(typing.get_args(hint)[0]), rules)
    if hasattr(hint, "SCHEMA_NUMBER"):
        return _nested(hint)
    if hint in (int, str, bytes, bool):
        return _scalar(hint, rules)
    raise TypeError(f"no encoding for a field of type {hint!r}")


def _scalar(kind: type[Any], rules: tuple[Rule, ...]) -> FieldCodec:
    def check(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise MalformedEncoding(f"must be {kind.__name__}", field=path, value=value)
        if kind is str and not is_unicode(value):
            raise MalformedEncoding("must be Unicode text", field=path, value=ascii(value))
        for rule in rules:
            if not rule.check(value):
                raise MalformedEncoding(f"must be {rule.says}", field=path, value=value)
        return value

    codec = FieldCodec(check, check)
    conditions = [f"type({{v}}) is {kind.__name__}"]
    for rule in rules:
        test = f"test_{next(_serial)}"
        conditions.append(f"({rule.quick})".replace("test(", f"{test}("))
        codec.names[test] = rule.test
    codec.condition = " and ".join(conditions)
    return codec


def _optional(inner: FieldCodec) -> FieldCodec:
    codec = FieldCodec(
        lambda value, path: None if value is None else inner.encode(value, path),
        lambda value, path: None if value is None else inner.decode(value, path),
    )
    if inner.condition:
        codec.condition = f"({{v}} is None or {inner.condition})"
    codec.names = inner.names
    codec.has_value = inner.has_value
    codec.message, codec.is_sequence = inner.message, inner.is_sequence
    quick_encode, quick_decode = inner.quick_encode, inner.quick_decode
    if quick_encode is not None and quick_decode is not None:
        codec.quick_encode = lambda value: None if value is None else quick_encode(value)
        codec.quick_decode = lambda value: None if value is None else quick_decode(value)
    return codec


def _sequence(inner: FieldCodec, rules: tuple[Rule, ...]) -> FieldCodec:
    def convert(value: Any, path: str, each: Named) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise MalformedEncoding("must be a list", field=path, value=value)
        for rule in rules:
            if not rule.check(value):
                raise MalformedEncoding(f"must be {rule.says}", field=path)
        return [each(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def quick(each: Convert | None) -> Callable[[Any], list[Any]]:
        accepts = _predicate(inner)

        def convert_quickly(value: Any) -> list[Any]:
            if not isinstance(value, list | tuple):
                raise Refused
            codec.check_rules(value)
            if accepts is not None and not all(map(accepts, value)):
                raise Refused
            return list(value) if each is None else list(map(each, value))

        return convert_quickly

    codec = FieldCodec(
        lambda value, path: convert(value, path, inner.encode),
        lambda value, path: tuple(convert(value, path, inner.decode)),
    )
    quick_decode = quick(inner.quick_decode)
    codec.quick_encode = quick(inner.quick_encode)
    codec.quick_decode = lambda value: tuple(quick_decode(value))
    codec.message, codec.is_sequence, codec.has_value = inner.message, True, inner.has_value
    codec.rules = rules
    return codec


def _nested(cls: type[Any]) -> FieldCodec:
    codec = FieldCodec(
        lambda value, path: plain_of(value, cls, path),
        lambda plain, path: message_of(cls, plain, path),
    )
    plan = plan_of(cls)
    codec.quick_encode, codec.quick_decode = plan.to_plain, plan.build
    codec.message = cls
    codec.has_value = plan.has_values
    return codec


def _one_of(classes: tuple[type[Any], ...]) -> FieldCodec:
    """Returns the codec of a field that holds one of several messages; what is none is refused as the first of them."""
    by_number = {cls.SCHEMA_NUMBER: cls for cls in classes}

    def of(value: Any) -> type[Any]:
        return type(value) if type(value) in classes else classes[0]

    def of_plain(plain: Any) -> type[Any]:
        number = plain[0] if type(plain) is list and plain else None
        return by_number.get(number, classes[0]) if type(number) is int else classes[0]

    codec = FieldCodec(
        lambda value, path: plain_of(value, of(value), path),
        lambda plain, path: message_of(of_plain(plain), plain, path),
    )
    codec.quick_encode = lambda value: plan_of(of(value)).to_plain(value)
    codec.quick_decode = lambda plain: plan_of(of_plain(plain)).build(plain)
    codec.has_value = any(plan_of(cls).has_values for cls in classes)
    return codec


def _value_field() -> FieldCodec:
    codec = FieldCodec(checked_value, checked_value)
    codec.quick_encode = codec.quick_decode = quick_value
    codec.has_value = True
    return codec


# The quick way


def _predicate(codec: FieldCodec) -> Callable[[Any], bool] | None:
    """Returns the quick check of a field as a function, None when there is nothing to check."""
    if not codec.condition:
        return None
    source = "lambda v: " + codec.condition.replace("{v}", "v")
    predicate: Callable[[Any], bool] = eval(source, dict(codec.names))  # noqa: S307 - no message is part of the source
    return predicate


def _quick_functions(cls: type[Any], plan: Plan) -> tuple[Convert, Convert]:
    """Returns two functions: message to plain list, and back; both raise Refused for what is not right."""
    names: dict[str, Any] = {"cls": cls, "Refused": Refused}
    conditions, encoded, decoded = [], [], []
    for index, (_, codec) in enumerate(plan.fields):
        names |= codec.names | {f"encode_{index}": codec.quick_encode, f"decode_{index}": codec.quick_decode}
        if codec.condition:
            conditions.append(codec.condition.replace("{v}", f"f{index}"))
        encoded.append(f"f{index}" if codec.quick_encode is None else f"encode_{index}(f{index})")
        decoded.append(f"f{index}" if codec.quick_decode is None else f"decode_{index}(f{index})")
    values = ", ".join(f"f{index}" for index in range(len(plan.fields)))
    right = " and ".join(conditions) or "True"
    source = [
        "def to_plain(m):",
        "    if type(m) is not cls:",
        "        raise Refused",
        *(f"    f{index} = m.{name}" for index, (name, _) in enumerate(plan.fields)),
        f"    if {right}:",
        f"        return [{', '.join([str(plan.number), *encoded])}]",
        "    raise Refused",
        "def build(p):",
        f"    if type(p) is not list or len(p) != {len(plan.fields) + 1}:",
        "        raise Refused",
        f"    n, {values} = p" if values else "    [n] = p",
        f"    if type(n) is int and n == {plan.number} and {right}:",
        f"        return cls({', '.join(decoded)})",
        "    raise Refused",
    ]
    exec("\n".join(source), names)  # noqa: S102 - no message is part of the source
    return names["to_plain"], names["build"]


# The way that names what is wrong


def plain_of(value: Any, cls: type[Any], path: str) -> list[Any]:
    """Returns a message as the list that is encoded; raises MalformedEncoding that names the field that is wrong."""
    if type(value) is not cls:
        raise MalformedEncoding(f"must be {cls.__name__}", field=path, value=type(value).__name__)
    prefix = f"{path}." if path else ""
    plan = plan_of(cls)
    return [plan.number, *(codec.encode(getattr(value, name), prefix + name) for name, codec in plan.fields)]


def message_of(cls: type[Any], plain: Any, path: str) -> Any:
    """Returns the message that a decoded list stands for; raises MalformedEncoding that names the field."""
    plan = plan_of(cls)
    size = len(plan.fields)
    if type(plain) is not list or len(plain) != size + 1 or type(plain[0]) is not int or plain[0] != plan.number:
        raise MalformedEncoding(f"is not a {cls.__name__}: [{plan.number}, {size} fields]", field=path or None)
    prefix = f"{path}." if path else ""
    values = zip(plan.fields, plain[1:], strict=True)
    return cls(*(codec.decode(item, prefix + name) for (name, codec), item in values))
