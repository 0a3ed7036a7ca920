"""A real API server for the tests of this folder, started once when the first of them asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chart.api_server import ApiServer, api_server, install_definitions, programs


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    binaries = programs()
    if binaries is None:
        pytest.skip("no kube-apiserver here: `hack/cluster/cluster build` makes one")
    with api_server(binaries, tmp_path_factory.mktemp("api-server")) as server:
        install_definitions(server)
        yield server
