"""Probes and metrics of the operator itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from aiohttp import web

from agentworld_operator.controller import Controller

CONTROLLER: web.AppKey[Controller] = web.AppKey("controller", Controller)
REQUESTS: web.AppKey[Callable[[], Counter[str]]] = web.AppKey("requests", Callable[[], Counter[str]])  # type: ignore[arg-type]


def build_app(controller: Controller, requests: Callable[[], Counter[str]]) -> web.Application:
    """Returns the application that serves ``/livez``, ``/readyz`` and ``/metrics``."""
    app = web.Application()
    app[CONTROLLER] = controller
    app[REQUESTS] = requests
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


async def livez(request: web.Request) -> web.Response:
    """Answers 503 with the reason when only a restart helps."""
    return _verdict(request.app[CONTROLLER].failure())


async def readyz(request: web.Request) -> web.Response:
    """Answers 503 with the reason until the operator does its work."""
    controller = request.app[CONTROLLER]
    return _verdict(controller.failure() or controller.not_ready())


async def metrics(request: web.Request) -> web.Response:
    """Answers in the text format of Prometheus."""
    controller, requests = request.app[CONTROLLER], request.app[REQUESTS]()
    lines = [
        *_metric("worlds", "gauge", "Worlds that are looked after", controller.worlds),
        *_metric("queue_depth", "gauge", "Worlds that are due for a reconcile or in one", controller.queue.depth()),
        *_metric("queue_age_seconds", "gauge", "How overdue the longest waiting world is", controller.queue.age()),
        *_metric("reconciles_total", "counter", "Reconciles that succeeded", controller.queue.done),
        *_metric("reconcile_failures_total", "counter", "Reconciles that failed", controller.queue.failed),
        *_metric("watch_events_total", "counter", "Watch events taken in", controller.watches.events),
        *_metric("deaf_watches", "gauge", "Kinds whose watch has missed changes", len(controller.watches.deaf)),
        *_metric("node_polls_total", "counter", "Rounds of asking the nodes", controller.polls),
        "# HELP agentworld_operator_api_requests_total Requests to the API server by verb",
        "# TYPE agentworld_operator_api_requests_total counter",
        *(
            f'agentworld_operator_api_requests_total{{verb="{verb}"}} {count}'
            for verb, count in sorted(requests.items())
        ),
    ]
    return web.Response(text="\n".join(lines) + "\n", headers={"Content-Type": "text/plain; version=0.0.4"})


def _verdict(problem: str | None) -> web.Response:
    return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)


def _metric(name: str, kind: str, says: str, value: float) -> list[str]:
    full = f"agentworld_operator_{name}"
    return [f"# HELP {full} {says}", f"# TYPE {full} {kind}", f"{full} {value:g}"]
