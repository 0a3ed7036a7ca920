"""The operator as a process: settings, probes, metrics, watches, command line."""

import asyncio
from collections import Counter
from typing import Any

import kopf
import pytest
from aiohttp.test_utils import TestClient, TestServer

from agentworld_core.errors import InvalidField
from agentworld_operator import app
from agentworld_operator.controller import Controller
from agentworld_operator.errors import KubernetesError
from agentworld_operator.http import build_app
from agentworld_operator.settings import Options, options_from
from tests.unit.operator.harness import Harness


def test_the_environment_sets_everything_and_its_absence_nothing() -> None:
    assert options_from({}) == Options()
    options = options_from(
        {
            "WATCH_NAMESPACES": "a, b,,a",
            "POD_NAMESPACE": "system",
            "NODE_IMAGE": "n:1",
            "NODE_IMAGE_PULL_POLICY": "Never",
            "LOG_LEVEL": "DEBUG",
            "HTTP_PORT": "9000",
        }
    )
    assert options.namespaces == ("a", "b")
    assert (options.own_namespace, options.node_image, options.node_pull_policy) == ("system", "n:1", "Never")
    assert (options.log_level, options.http_port) == ("debug", 9000)


@pytest.mark.parametrize(
    ("name", "value"),
    [("WATCH_NAMESPACES", "Not A Name"), ("LOG_LEVEL", "loud"), ("HTTP_PORT", "70000"), ("WORKERS", "none")],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidField) as caught:
        options_from({name: value})
    assert caught.value.field == name


def controller(harness: Harness, **options: Any) -> Controller:
    return Controller(harness.context, Options(**options))


async def test_a_controller_brings_a_world_up_from_one_watch_event_and_the_nodes_words() -> None:
    harness = Harness()
    harness.apply("World", "aurora", validators={"replicas": 1})
    driver = controller(harness, poll_seconds=0.01, relist_seconds=3600)
    driver.saw("World", "ADDED", harness.kube.read("World", "aurora"))
    task = asyncio.create_task(driver.run())
    try:
        async with asyncio.timeout(30):
            while harness.world.get("phase") != "Ready":
                harness.nodes.step()
                for kind in ("Pod", "Lease"):
                    for name in harness.kube.names(kind):
                        driver.saw(kind, "MODIFIED", harness.kube.read(kind, name))
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    assert driver.worlds == 1
    assert driver.failure() is None


async def test_a_relist_finds_what_no_event_told_of() -> None:
    harness = Harness()
    harness.apply("World", "aurora", validators={"replicas": 1})
    harness.apply("Validator", "lost", world="elsewhere")
    driver = controller(harness)
    assert driver.not_ready() is not None
    await driver.relist()
    assert driver.not_ready() is None
    assert len(driver.queue) == 2


async def test_events_of_other_namespaces_are_left_alone() -> None:
    harness = Harness()
    harness.apply("World", "aurora")
    driver = controller(harness, namespaces=("mine",))
    driver.saw("World", "ADDED", harness.kube.read("World", "aurora"))
    assert len(driver.queue) == 0


async def test_probes_and_metrics() -> None:
    driver = controller(Harness())
    requests = Counter({"GET": 7, "PATCH": 2})
    async with TestClient(TestServer(build_app(driver, lambda: requests))) as http:
        assert (await http.get("/livez")).status == 200
        answer = await http.get("/readyz")
        assert (answer.status, "listed" in await answer.text()) == (503, True)
        driver.listed.set()
        assert (await http.get("/readyz")).status == 200
        driver.watches.deaf = ("World",)
        answer = await http.get("/livez")
        assert (answer.status, "World" in await answer.text()) == (503, True)
        text = await (await http.get("/metrics")).text()
    assert 'agentworld_operator_api_requests_total{verb="PATCH"} 2' in text
    assert "agentworld_operator_deaf_watches 1" in text
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ", "agentworld_operator_"))


def test_kopf_only_watches() -> None:
    registry = app.watch_registry(controller(Harness()))
    assert len(list(registry._watching.get_all_handlers())) == 5
    assert not list(registry._changing.get_all_handlers())
    assert not list(registry._spawning.get_all_handlers())
    settings = app.watch_settings()
    assert isinstance(settings, kopf.OperatorSettings)
    assert settings.posting.enabled is False
    assert settings.persistence.finalizer.startswith("agentworld.dev/")


class FakeApi:
    """An API server that knows some kinds."""

    def __init__(self, errors: dict[str, KubernetesError]):
        self._errors = errors

    async def find(self, kind: str, _namespace: str | None) -> list[object]:
        if kind in self._errors:
            raise self._errors[kind]
        return []

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("errors", "code", "says"),
    [
        ({}, 0, "ok"),
        ({"World": KubernetesError("x", status=404)}, 1, "custom resource definitions"),
        ({"Validator": KubernetesError("forbidden", status=403)}, 1, "rbac"),
    ],
)
def test_check_says_what_is_missing(
    errors: dict[str, KubernetesError], code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    async def connect() -> FakeApi:
        return FakeApi(errors)

    monkeypatch.setattr(app, "connect", connect)
    with pytest.raises(SystemExit) as caught:
        app.main(["check"])
    assert caught.value.code == code
    assert says in capsys.readouterr().out


def test_wrong_settings_and_missing_credentials_end_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SystemExit) as caught:
        app.main([])
    assert (caught.value.code, "LOG_LEVEL" in capsys.readouterr().err) == (2, True)
    monkeypatch.setenv("LOG_LEVEL", "error")
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    with pytest.raises(SystemExit) as caught:
        app.main(["check"])
    assert (caught.value.code, "KUBECONFIG" in capsys.readouterr().err) == (1, True)
