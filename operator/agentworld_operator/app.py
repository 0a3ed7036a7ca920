"""Starts the operator: kopf watches and hands every event on; everything else is ours.

kopf gives watches that survive, authentication and a clean end. Nothing of its change handlers, its state in
annotations, its finalizers or its own events is used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import aiohttp
import kopf
from aiohttp import web

from agentworld_core.errors import AgentWorldError
from agentworld_core.topology.plan import WORLD_LABEL
from agentworld_core.topology.resources import GROUP, VERSION
from agentworld_operator.controller import Controller
from agentworld_operator.errors import KubernetesError
from agentworld_operator.http import build_app
from agentworld_operator.kube.api import KubernetesApi
from agentworld_operator.kube.connect import connect, in_cluster
from agentworld_operator.nodes.client import NodeClient
from agentworld_operator.plan.pods import Image
from agentworld_operator.reconcile.context import Context, Settings
from agentworld_operator.settings import Options, options_from
from agentworld_operator.watching import OWN_KINDS

log = logging.getLogger(__name__)

FAILED, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one subcommand and exits with its code."""
    given = _parser().parse_args(arguments)
    try:
        options = options_from(os.environ)
    except AgentWorldError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USAGE)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )
    # One line for every event that is handed on says nothing.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    try:
        sys.exit(asyncio.run(_check(options) if given.command == "check" else _run(options)))
    except KubernetesError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentworld-operator",
        description="Looks after World, Validator and MembershipKey resources.",
        epilog="Environment: POD_NAMESPACE, WATCH_NAMESPACES (commas; empty: all), NODE_IMAGE, NODE_IMAGE_PULL_POLICY,"
        " LOG_LEVEL, HTTP_PORT (8080), WORKERS (4), KUBECONFIG outside of a pod."
        " Exit codes: 0 ended as asked, 1 failed, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("agent-world"))
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "check"),
        default="run",
        help="run (the default), or check that the API server knows our resources and lets us read them",
    )
    return parser


async def _check(options: Options) -> int:
    """Says for each kind and namespace whether it can be read; 0 when all can."""
    kube = await connect()
    failures = 0
    try:
        for kind in OWN_KINDS:
            for namespace in options.namespaces or (None,):
                where = f"in namespace {namespace}" if namespace else "in all namespaces"
                try:
                    found = await kube.find(kind, namespace)
                except KubernetesError as error:
                    failures += 1
                    _say(f"{kind}: cannot be read {where}: {_advice(error)}")
                else:
                    _say(f"{kind}: {len(found)} {where}")
    finally:
        await kube.close()
    _say("ok" if not failures else f"{failures} of the checks failed")
    return FAILED if failures else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _advice(error: KubernetesError) -> str:
    if error.status == 404:
        return "the API server does not know it; install the custom resource definitions (crds.enabled of the chart)"
    if error.status in (401, 403):
        return f"{error.message}; see rbac.create and watchNamespaces of the chart"
    return error.message


async def _run(options: Options) -> int:
    """Works until SIGTERM or SIGINT."""
    kube = await connect()
    try:
        async with aiohttp.ClientSession() as session:
            settings = Settings(
                image=Image(reference=options.node_image, pull_policy=options.node_pull_policy),
                operator_namespace=options.own_namespace,
            )
            context = Context(kube=kube, nodes=NodeClient(session), settings=settings)
            await _serve(Controller(context, options), kube, options)
    finally:
        await kube.close()
    return 0


async def _serve(controller: Controller, kube: KubernetesApi, options: Options) -> None:
    """Runs watches, workers and the HTTP server side by side; the end of one ends all."""
    runner = web.AppRunner(build_app(controller, lambda: kube.requests), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=options.http_port).start()
    tasks = [
        asyncio.create_task(_watch(controller, options), name="watches"),
        asyncio.create_task(controller.run(), name="controller"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.cleanup()


async def _watch(controller: Controller, options: Options) -> None:
    # Watches on kinds that the API server does not know yet would never begin.
    await controller.listed.wait()
    await kopf.operator(
        registry=watch_registry(controller),
        settings=watch_settings(),
        standalone=True,
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
    )


def watch_registry(controller: Controller) -> kopf.OperatorRegistry:
    """Returns kopf's registry with one handler a kind, which only hands the event on."""
    registry = kopf.OperatorRegistry()

    def watch(kind: str, *resource: str, **filters: Any) -> None:
        @kopf.on.event(*resource, registry=registry, id=f"saw-{kind}", **filters)
        async def saw(event: Any, **_: Any) -> None:
            controller.saw(kind, str(event.get("type") or ""), {"kind": kind, **event["object"]})

    watch("World", GROUP, VERSION, "worlds")
    watch("Validator", GROUP, VERSION, "validators")
    watch("MembershipKey", GROUP, VERSION, "membershipkeys")
    watch("Pod", "", "v1", "pods", labels={WORLD_LABEL: kopf.PRESENT})
    watch("Lease", "coordination.k8s.io", "v1", "leases", labels={WORLD_LABEL: kopf.PRESENT})

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        if in_cluster():
            return kopf.login_with_service_account(**arguments)
        return kopf.login_with_kubeconfig(**arguments)

    return registry


def watch_settings() -> kopf.OperatorSettings:
    """Returns kopf's settings: no events, annotations and finalizers of its own; watches that do not stay deaf."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.networking.request_timeout = 20
    settings.queueing.worker_limit = 50
    settings.execution.max_workers = 2
    # Our kinds are there before the watches begin, and we have no right to read the definitions.
    settings.scanning.disabled = True
    for resource in ("pods", "leases"):
        settings.watching.label_selectors[resource] = WORLD_LABEL
    return settings


if __name__ == "__main__":
    main()
