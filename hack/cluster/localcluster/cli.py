"""The command line."""

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from .commands import ClusterError, answers
from .kind import Kind
from .local import Local
from .progress import say
from .provider import Provider
from .settings import DEFAULT_NAME, Folders, folders

PASSED_ON = ("kubectl", "helm")

DESCRIPTION = """A real Kubernetes on this machine: processes and namespaces that this tool builds and starts, or kind
where a Docker daemon answers. Several clusters live side by side by name."""

EPILOG = """environment:
  CLUSTER_NAME       the cluster's name when --name is not given (default: agent-world)
  CLUSTER_PROVIDER   local or kind, instead of asking whether a Docker daemon answers
  XDG_CACHE_HOME     where binaries, images and state are kept (default: ~/.cache)

exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage, 3 `status` of a cluster that is not up,
130 interrupted."""


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # a caller's timeout cleans up like Ctrl-C
    try:
        return _run(arguments)
    except ClusterError as error:
        say(f"cluster: {error}")
        return 1
    except KeyboardInterrupt:
        say("cluster: interrupted")
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python must not fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def provider_for(where: Folders) -> Provider:
    """Chooses the provider: as asked, else as this cluster was made, else by whether a Docker daemon answers."""
    asked = os.environ.get("CLUSTER_PROVIDER", "")
    if asked not in ("", "kind", "local"):
        raise ClusterError(f"CLUSTER_PROVIDER is kind or local, not {asked!r}")
    if not asked and (where.state / "slot").exists():
        asked = "local"
    if not asked and (where.state / "kind.yaml").exists():
        asked = "kind"
    use_kind = asked == "kind" or (not asked and answers(["docker", "info"], seconds=10))
    return Kind(where) if use_kind else Local(where)


def _run(arguments: list[str]) -> int:
    own, rest = _split(arguments)
    options = _parser().parse_args(own)
    where = folders(options.name)
    provider = provider_for(where)
    match options.command:
        case "up":
            provider.up(options.nodes)
        case "down":
            provider.down(purge=options.purge)
        case "build":
            provider.build()
        case "image":
            names = provider.image(options.target, options.tag)
            if options.load:
                provider.load(names)
            print("\n".join(names))
        case "load":
            provider.load(options.image)
        case "status":
            return 0 if provider.status() else 3
        case "logs":
            provider.logs(options.component, lines=options.lines, follow=options.follow)
        case "fault":
            provider.fault(options.deed, options.component)
        case "kubeconfig" | "provider" as word:
            print(provider.kubeconfig() if word == "kubeconfig" else provider.kind)
        case "kubectl" | "helm":
            _pass_on(provider, where, options.command, rest)
    return 0


def _pass_on(provider: Provider, where: Folders, name: str, words: list[str]) -> NoReturn:
    """Becomes kubectl or helm, with the cluster's credentials and its programs first on the PATH.

    Never with the user's own KUBECONFIG: helm, much of which needs no cluster, then finds none instead of a wrong one.
    """
    program = provider.program(name)
    if name == "kubectl" and not {"--help", "-h"} & set(words):
        provider.kubeconfig()  # says so when there is no cluster
    path = f"{os.path.dirname(program)}:{os.environ.get('PATH', '')}"
    os.execve(program, [name, *words], {**os.environ, "PATH": path, "KUBECONFIG": str(where.kubeconfig)})  # noqa: S606


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Cuts the arguments behind `kubectl` or `helm`: what follows is not ours to read."""
    skip = False
    for place, word in enumerate(arguments):
        if skip or word.startswith("-"):
            skip = not skip and word == "--name"
        elif word in PASSED_ON:
            return arguments[: place + 1], arguments[place + 1 :]
        else:
            break
    return arguments, []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = os.environ.get("CLUSTER_NAME") or DEFAULT_NAME
    parser.add_argument("--name", default=name, help="which cluster (default: %(default)s)")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--name", default=argparse.SUPPRESS, help=f"which cluster (default: {name})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(word: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(word, help=text, description=text[0].upper() + text[1:] + ".", parents=[shared])

    up = command("up", "start the cluster, building its parts the first time; says so when it is up already")
    up.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="nodes that take pods, 1 to 9 (default: %(default)s)"
    )
    down = command("down", "stop the cluster and leave nothing behind but its state")
    down.add_argument("--purge", action="store_true", help="remove its state too")
    command("build", "build the parts and install the packages that a cluster needs, without starting one")
    image = command("image", "build images of ours (targets of the Dockerfile: node, operator) and print their names")
    image.add_argument("target", nargs="+", metavar="TARGET")
    image.add_argument("--tag", default="dev", help="default: %(default)s")
    image.add_argument("--load", action="store_true", help="load them into the cluster too")
    load = command("load", "bring images to every node: names in the image store, or .tar archives")
    load.add_argument("image", nargs="+", metavar="IMAGE")
    command("status", "show addresses, processes and nodes")
    logs = command("logs", "show a component's log, or list the components")
    logs.add_argument("component", nargs="?", metavar="COMPONENT")
    logs.add_argument(
        "--lines", "-n", type=int, default=100, metavar="N", help="the last N lines (default: %(default)s)"
    )
    logs.add_argument("--follow", "-f", action="store_true", help="go on as it grows")
    fault = command("fault", "kill, freeze or thaw a component, as a test of what runs on it; `up` starts the killed")
    fault.add_argument("deed", choices=("kill", "freeze", "thaw"))
    fault.add_argument("component", metavar="COMPONENT", help="as `status` names it, such as kube-apiserver or node2")
    command("kubeconfig", "print the path of the credentials")
    command("provider", "print which kind of cluster this is: local or kind")
    for word in PASSED_ON:
        command(word, f"run {word} against the cluster; everything behind the word is handed to it")
    return parser


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
