"""The cheaper ``__init__`` changes nothing about a frozen dataclass but what it costs."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest

from agentworld_core.codec import schema_table
from agentworld_core.messages import ActionEnvelope
from agentworld_core.quick_init import quick_init
from agentworld_core.world.state import AgentRecord


@quick_init
@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    x: int
    y: int = 2
    name: str = "here"


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    items: list[int] = dataclasses.field(default_factory=list)


def test_fields_are_set_by_place_by_name_and_by_default() -> None:
    assert Place(1) == Place(1, 2, "here") == Place(x=1, y=2)
    assert Place(1, name="there").name == "there"
    assert repr(Place(1)) == "Place(x=1, y=2, name='here')"


def test_an_object_is_of_its_class_and_frozen() -> None:
    place = Place(1)

    assert type(place) is Place
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.x = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        place.other = 3  # type: ignore[attr-defined]
    assert not hasattr(place, "__dict__")
    assert hash(place) == hash(Place(1))


@pytest.mark.parametrize("arguments", [{}, {"x": 1, "z": 2}, {"y": 1}])
def test_wrong_arguments_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Place(**arguments)  # type: ignore[arg-type]


def test_copies_and_pickles_are_the_same() -> None:
    place = Place(7, name="there")

    for other in (dataclasses.replace(place), copy.deepcopy(place), pickle.loads(pickle.dumps(place))):
        assert other == place
        assert type(other) is Place
    assert dataclasses.replace(place, y=9) == Place(7, 9, "there")


def test_what_does_more_than_setting_fields_is_left_alone() -> None:
    assert quick_init(Checked) is Checked
    with pytest.raises(ValueError, match="negative"):
        Checked(-1)
    quick_init(Listed)
    assert Listed().items is not Listed().items


@pytest.mark.parametrize("cls", [ActionEnvelope, AgentRecord, *schema_table().values()])
def test_messages_and_records_have_the_signature_of_their_fields(cls: type) -> None:
    signature = inspect.signature(cls)
    fields = dataclasses.fields(cls)

    assert list(signature.parameters) == [field.name for field in fields]
    for field in fields:
        expected = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        assert signature.parameters[field.name].default == expected or field.default_factory is not dataclasses.MISSING
