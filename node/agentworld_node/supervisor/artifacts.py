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


def read_config_map(document: Mapping[str, Any]) -> ConfigMap:
    """Returns the ConfigMap of a manifest; raises InvalidField that names the value that is none."""
    metadata = document.get("metadata") or {}
    files: dict[str, bytes] = {}
    for key, value in (document.get("data") or {}).items():
        if not isinstance(value, str):
            raise InvalidField("must be text", field=f"data.{key}", value=value)
        files[str(key)] = value.encode()
    for key, value in (document.get("binaryData") or {}).items():
        try:
            files[str(key)] = base64.b64decode("".join(str(value).split()), validate=True)
        except ValueError as error:
            raise InvalidField("is not base64", field=f"binaryData.{key}", value=str(value)[:64]) from error
    return ConfigMap(str(metadata.get("name", "")), metadata.get("labels") or {}, files)


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
            sources[artifact.config_map] = _folder(folder / artifact.config_map)
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


def _folder(folder: Path) -> Source:
    files: dict[str, bytes] = {}
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES and path.is_file()]
        for path in paths[:MAX_FILES]:
            with path.open("rb") as file:
                # One byte more than is allowed is enough to be refused as too large.
                files[path.name] = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field="spec.genesis.modules", value=folder) from error
    return Source(f"folder {folder}", files)
