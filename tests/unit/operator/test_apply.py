"""Objects are written only when they differ, and strangers are left alone."""

from typing import Any

import pytest

from agentworld_core.topology.resources import Metadata
from agentworld_operator.errors import KubernetesError
from agentworld_operator.reconcile.apply import Applier, Settled, covers
from agentworld_operator.resources.objects import metadata
from tests.unit.operator.fake_kube import FakeKube, Object

WORLD = Metadata(name="aurora", uid="world-uid")


def service(**spec: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(WORLD, "s", component="gateway"), "spec": spec}


async def applier(kube: FakeKube, settled: Settled) -> Applier:
    found = await kube.find("Service", "default", labels={"agentworld.dev/world": "aurora"})
    return Applier(kube, WORLD, {"Service": {obj["metadata"]["name"]: obj for obj in found}}, settled)


async def ensure(kube: FakeKube, desired: Object, settled: Settled | None = None) -> Applier:
    made = await applier(kube, settled or Settled())
    await made.ensure(desired)
    return made


async def test_what_is_as_it_should_be_is_not_written() -> None:
    kube = FakeKube()
    await ensure(kube, service(port=1))
    await ensure(kube, service(port=1))
    assert kube.writes == ["apply Service s"]


async def test_fields_of_others_do_not_matter_and_changed_ones_of_ours_do() -> None:
    kube = FakeKube()
    await ensure(kube, service(port=1))
    kube.merge("Service", "s", {"spec": {"clusterIP": "10.0.0.1"}})
    await ensure(kube, service(port=1))
    assert len(kube.writes) == 1
    kube.merge("Service", "s", {"spec": {"port": 2}})
    await ensure(kube, service(port=1))
    assert kube.read("Service", "s")["spec"] == {"clusterIP": "10.0.0.1", "port": 1}


async def test_a_field_that_is_no_longer_wanted_goes() -> None:
    kube = FakeKube()
    await ensure(kube, service(port=1, sessionAffinity="None"))
    await ensure(kube, service(port=1))
    assert kube.read("Service", "s")["spec"] == {"port": 1}


async def test_a_value_that_the_api_server_writes_differently_is_not_applied_again_and_again() -> None:
    kube, settled = FakeKube(), Settled()

    async def normalising(obj: Object) -> Object:
        stored = await FakeKube.apply(kube, obj)
        stored["spec"]["cpu"] = "500m"
        kube.read("Service", "s")["spec"]["cpu"] = "500m"
        return stored

    kube.apply = normalising  # type: ignore[method-assign]
    await ensure(kube, service(cpu="0.5"), settled)
    await ensure(kube, service(cpu="0.5"), settled)
    await ensure(kube, service(cpu="0.5"), settled)
    assert len(kube.writes) == 1


async def test_a_stranger_is_neither_changed_nor_deleted() -> None:
    kube = FakeKube()
    kube.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {}})
    made = await ensure(kube, service(port=1))
    assert (made.foreign, kube.writes) == (["Service s"], [])
    assert await made.create(service(port=1)) is None
    await made.remove_others("Service", [])
    assert kube.names("Service") == ["s"]


async def test_a_former_world_of_the_same_name_is_a_stranger_too() -> None:
    kube = FakeKube()
    old = Metadata(name="aurora", uid="former-uid")
    theirs = {**service(port=9), "metadata": metadata(old, "s", component="gateway")}
    kube.put(theirs)
    made = await ensure(kube, service(port=1))
    assert made.foreign == ["Service s"]
    assert kube.read("Service", "s")["spec"] == {"port": 9}


@pytest.mark.parametrize(("status", "is_verdict"), [(403, True), (422, True), (409, False), (429, False), (500, False)])
async def test_a_verdict_on_one_object_is_noted_and_anything_else_is_tried_again(status: int, is_verdict: bool) -> None:
    kube = FakeKube()

    async def refuse(obj: Object) -> Object:
        raise KubernetesError("exceeded quota", status=status)

    kube.apply = refuse  # type: ignore[method-assign]
    made = await applier(kube, Settled())
    if is_verdict:
        assert await made.ensure(service()) is None
        assert made.refused == ["Service s: exceeded quota"]
    else:
        with pytest.raises(KubernetesError):
            await made.ensure(service())


@pytest.mark.parametrize(
    ("live", "desired", "covered"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": 1}, False),
        ({}, {"a": {}}, True),
        ({"a": {"x": 1}}, {"a": {}}, True),
        ({"a": [1]}, {"a": []}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        ({"a": [{"x": 1}, {"x": 2}]}, {"a": [{"x": 1}]}, False),
        ({"a": 0}, {"a": False}, True),
    ],
)
def test_covering(live: Any, desired: Any, covered: bool) -> None:
    assert covers(live, desired) is covered
