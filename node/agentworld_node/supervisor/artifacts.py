"""Where the modules of a genesis come from on one machine: from ConfigMaps among the manifests, or files beside them.

A folder beside the World's manifest stands for the ConfigMap of its name, as ``kubectl create configmap NAME
--from-file=FOLDER`` would make it. A blob is looked for by its content id in the folder of the World's manifest, in the
folders there, and in ConfigMaps that carry the label which an operator asks for.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import GenesisModule
from agentworld_core.topology.genesis_modules import (
    ARTIFACT_LABEL,
    Source,
    named_config_maps,
    names_blobs,
    resolve_modules,
)
from agentworld_core.topology.world_spec import GenesisSpec
from agentworld_core.world.modules.sandbox import Sandbox

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 256
_SUFFIXES = (".wasm", ".json")


@dataclasses.dataclass(frozen=True)
class ConfigMap:
    """A ConfigMap that was given among the manifests, with its values as bytes."""

    name: str
    labels: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def source(self) -> Source:
        """The source that it is."""
        return Source(f"ConfigMap {self.name}", self.files)


def is_wanted(document: Mapping[str, Any], specs: Iterable[GenesisSpec]) -> bool:
    """True for a ConfigMap that one of these names, or in which the blobs of one are looked for."""
    metadata = document.get("metadata")
    if document.get("kind") != "ConfigMap" or not isinstance(metadata, Mapping):
        return False
    labelled = _labels(metadata).get(ARTIFACT_LABEL) == "true"
    return any(metadata.get("name") in named_config_maps(item) or (labelled and names_blobs(item)) for item in specs)


def read_config_map(document: Mapping[str, Any]) -> ConfigMap:
    """Returns the ConfigMap of a manifest that is wanted; raises InvalidField that names the value that is none."""
    files: dict[str, bytes] = {}
    for field in ("data", "binaryData"):
        values = document.get(field) or {}
        if not isinstance(values, Mapping):
            raise InvalidField("must be a mapping", field=field, value=values)
        for key, value in values.items():
            if not isinstance(value, str):
                raise InvalidField("must be text", field=f"{field}.{key}", value=value)
            files[str(key)] = value.encode() if field == "data" else _decoded(value, f"{field}.{key}")
    metadata = document["metadata"]
    return ConfigMap(str(metadata["name"]), _labels(metadata), files)


def _labels(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    labels = metadata.get("labels")
    return labels if isinstance(labels, Mapping) else {}


def _decoded(value: str, field: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise InvalidField("is not base64", field=field, value=value[:64]) from error


def find_modules(
    genesis: GenesisSpec, config_maps: Iterable[ConfigMap], folder: Path, *, sandbox: Sandbox
) -> tuple[tuple[GenesisModule, ...], tuple[InvalidField, ...]]:
    """Returns the modules that a genesis names, and everything that is wrong with them.

    ``folder`` is that of the World's manifest. Raises InvalidField for a file that cannot be read.
    """
    given = list(config_maps)
    sources = {item.name: item.source for item in given}
    for artifact in [item.artifact for item in genesis.modules if item.artifact.config_map not in sources]:
        if artifact.config_map and (folder / artifact.config_map).is_dir():
            sources[artifact.config_map] = _folder(folder / artifact.config_map, artifact.key)
    others = list(_others(folder)) if names_blobs(genesis) else []
    named = {name: sources[name] for name in named_config_maps(genesis) if name in sources}
    labelled = [item.source for item in given if item.labels.get(ARTIFACT_LABEL) == "true" and item.name not in named]
    found = resolve_modules(genesis, config_maps=named, others=[*labelled, *others], sandbox=sandbox)
    return found.modules, found.problems


def _others(folder: Path) -> Iterator[Source]:
    yield _folder(folder)
    for path in sorted(folder.iterdir())[:MAX_FILES]:
        if path.is_dir():
            yield _folder(path)


def _folder(folder: Path, key: str = "") -> Source:
    """Returns the modules and manifests of a folder, and the file that is named by its key."""
    files: dict[str, bytes] = {}
    try:
        inside = sorted(folder.iterdir(), key=lambda path: (path.name != key, path.name))
        paths = [path for path in inside if (path.suffix in _SUFFIXES or path.name == key) and path.is_file()]
        for path in paths[:MAX_FILES]:
            with path.open("rb") as file:
                # One byte more than is allowed is enough to be refused as too large.
                files[path.name] = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field="spec.genesis.modules", value=folder) from error
    return Source(f"folder {folder}", files)
