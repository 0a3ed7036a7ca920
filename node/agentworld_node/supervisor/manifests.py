"""Reads manifests from files and folders as ``kubectl apply`` does: YAML or JSON, several documents in a file, Lists.

Everything that is wrong in any of them is reported at once, each with its file, object, field, value and remedy.
Objects of other APIs, which one folder may hold for Kubernetes, are left out and named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.topology.fields import InvalidManifest
from agentworld_core.topology.resources import GROUP, KINDS, Resource, World, parse_manifest
from agentworld_node.supervisor.artifacts import ConfigMap, is_wanted, read_config_map

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 1000
MAX_VALUES = 1_000_000
SUFFIXES = (".yaml", ".yml", ".json")


@dataclasses.dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with what was given: where it stands, about which object, and what."""

    source: str
    subject: str
    error: AgentWorldError

    def as_dict(self) -> dict[str, object]:
        """The JSON form: source and object beside the error's own fields."""
        return {"source": self.source, "object": self.subject, **self.error.as_dict()}

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Complaint:
        """Returns the complaint of a JSON form."""
        error = InvalidField(
            str(fields.get("message", "is refused")),
            field=fields.get("field"),
            value=fields.get("value"),
            remedy=fields.get("remedy"),
        )
        return Complaint(source=str(fields["source"]), subject=str(fields["object"]), error=error)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.subject, str(self.error)) if part)


class RefusedManifests(AgentWorldError):
    """Manifests are refused as a whole; ``complaints`` lists everything that is wrong with them."""

    code: ClassVar[str] = "invalid_manifest"

    def __init__(self, complaints: Sequence[Complaint]):
        self.complaints = tuple(complaints)
        count = f"{len(self.complaints)} problems" if len(self.complaints) > 1 else "one problem"
        super().__init__(f"nothing was applied because of {count}")

    def as_dict(self) -> dict[str, object]:
        """Adds the list of complaints."""
        return {**super().as_dict(), "complaints": [complaint.as_dict() for complaint in self.complaints]}

    def __str__(self) -> str:
        return "\n  ".join([f"{self.message}:", *map(str, self.complaints)])


@dataclasses.dataclass(frozen=True)
class Given:
    """A manifest of ours as it was given, parsed, with where it came from."""

    manifest: dict[str, Any]
    resource: Resource
    source: str

    @property
    def identity(self) -> tuple[str, str]:
        """The kind and name of the object."""
        return type(self.resource).__name__, self.resource.name

    def __str__(self) -> str:
        return "{} {}".format(*self.identity)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a set of files holds: our manifests, ConfigMaps that a World names, a sentence about each other object."""

    given: tuple[Given, ...]
    notices: tuple[str, ...]
    config_maps: tuple[ConfigMap, ...] = ()


def read_manifests(paths: Iterable[Path]) -> Reading:
    """Returns all manifests of files and of the YAML and JSON files of folders, or raises RefusedManifests."""
    complaints: list[Complaint] = []
    documents: list[tuple[str, object]] = []
    for path in _files(paths, complaints):
        documents += [(str(path), document) for document in _documents(path, complaints)]
    if not documents and not complaints:
        raise RefusedManifests([_no_manifests(paths)])
    return parse_documents(documents, complaints)


def parse_documents(documents: Iterable[tuple[str, object]], complaints: Iterable[Complaint] = ()) -> Reading:
    """Returns the parsed manifests of (source, document) pairs; raises RefusedManifests, adding to these complaints."""
    found = list(complaints)
    given: dict[tuple[str, str], Given] = {}
    foreign: list[tuple[str, Any]] = []
    for source, document in documents:
        if _is_foreign(document):
            foreign.append((source, document))
            continue
        try:
            item = Given(dict(document) if isinstance(document, dict) else {}, parse_manifest(document), source)
        except InvalidManifest as error:
            found += [Complaint(source, error.subject, violation) for violation in error.violations]
            continue
        if item.identity in given:
            twice = InvalidField("is given twice", value=given[item.identity].source, remedy="keep one of them")
            found.append(Complaint(source, str(item), twice))
        given[item.identity] = item
    config_maps, notices = _sort_foreign(foreign, [item.resource for item in given.values()], found)
    if found:
        raise RefusedManifests(found)
    return Reading(tuple(given.values()), tuple(notices), tuple(config_maps))


def _sort_foreign(
    foreign: list[tuple[str, Any]], resources: list[Resource], complaints: list[Complaint]
) -> tuple[list[ConfigMap], list[str]]:
    """Returns the ConfigMaps in which modules of a genesis are looked for, and a sentence about everything else."""
    specs = [resource.spec.genesis for resource in resources if isinstance(resource, World)]
    config_maps, notices = [], []
    for source, document in foreign:
        if not is_wanted(document, specs):
            notices.append(f"{source}: {_name_of(document)} is of another API and has no meaning on one machine")
            continue
        try:
            config_maps.append(read_config_map(document))
        except InvalidField as error:
            complaints.append(Complaint(source, _name_of(document), error))
    return config_maps, notices


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key stands once, and what looks like a time is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if key in keys[:index] and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one mapping", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _files(paths: Iterable[Path], complaints: list[Complaint]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
            if len(inside) > MAX_FILES:
                error = InvalidField(f"holds more than {MAX_FILES} files", remedy="name the files that matter")
                complaints.append(Complaint(str(path), "", error))
                continue
            yield from inside
        elif path.exists():
            yield path
        else:
            missing = InvalidField("there is no such file or folder", remedy="correct the path given with -f")
            complaints.append(Complaint(str(path), "", missing))


def _documents(path: Path, complaints: list[Complaint]) -> list[object]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidField(f"is larger than {MAX_FILE_BYTES} bytes", remedy="split it")
        # The loader is a SafeLoader: it makes plain data only.
        documents = [item for item in yaml.load_all(data, Loader=_Loader) if item is not None]
        _check_aliases(documents, {})
    except OSError as error:
        complaints.append(Complaint(str(path), "", InvalidField(f"cannot be read: {error.strerror}")))
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        complaints.append(Complaint(str(path), "", InvalidField(f"is not YAML: {reason}", remedy="correct the file")))
    except InvalidField as error:
        complaints.append(Complaint(str(path), "", error))
    else:
        return [item for document in documents for item in _items(document)]
    return []


def _check_aliases(value: object, sizes: dict[int, int]) -> int:
    """Returns how many values there are with aliases written out; InvalidField when there is no end, or too many."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = MAX_VALUES
        children = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_check_aliases(child, sizes) for child in children)
    if sizes[id(value)] >= MAX_VALUES:
        raise InvalidField("refers to itself, or repeats itself too often", remedy="write it without aliases")
    return sizes[id(value)]


def _items(document: object) -> list[object]:
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        return list(document["items"])
    return [document]


def _is_foreign(document: object) -> bool:
    """True for an object of another API; of one of our kinds, or without a version, it is a mistaken one of ours."""
    if not isinstance(document, dict) or document.get("kind") in KINDS:
        return False
    version = document.get("apiVersion")
    return isinstance(version, str) and bool(version) and version.split("/")[0] != GROUP


def _name_of(document: Any) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind') or 'an object'} {name or ''}".strip()


def _no_manifests(paths: Iterable[Path]) -> Complaint:
    nothing = InvalidField("holds no manifest", remedy="give a YAML file with a World, such as examples/quickstart/")
    return Complaint(", ".join(map(str, paths)), "", nothing)
