"""The house rules that no linter knows, checked on every file of the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]

MAX_MODULE_LINES = 400
MAX_PARAMETERS = 6
MAX_FUNCTION_LINES = 70

# What `agentworld_core` may import besides itself. A list of what is allowed cannot be outrun by a new module.
CORE_MAY_IMPORT = frozenset({
    "__future__", "abc", "agentworld_core", "base64", "binascii", "bisect", "blake3", "cbor2", "collections",
    "contextlib", "copy", "cryptography", "dataclasses", "enum", "fractions", "functools", "hashlib", "heapq", "hmac",
    "itertools", "json", "keyword", "math", "nacl", "operator", "re", "string", "struct", "types", "typing",
    "typing_extensions", "unicodedata", "zlib",
})  # fmt: skip

# Where each rule does not hold, and why.
GENERATED_OR_QUOTED = (
    "LICENSE",  # quotes its own address
    "go.mod",  # module paths are names, not addresses
    "go.sum",
)

# Written as expressions that do not match themselves.
FORBIDDEN_TEXT = {
    "a package index or an image registry": re.compile(
        r"\b(pypi\.org|pythonhosted\.org|npmjs\.org|proxy\.golang\.org|sum\.golang\.org|deb\.debian\.org|docker\.io"
        r"|ghcr\.io|quay\.io|gcr\.io|registry\.k8s\.io|mcr\.microsoft\.com|public\.ecr\.aws)\b"
    ),
    "an option that names a package index": re.compile(
        r"--(extra-)?index-url[ =]\S|--find-links[ =]\S|--trusted-host[ =]\S|--default-index[ =]\S"
    ),
    "a folder of one machine": re.compile(r"(?<![\w.$}-])/(root|home/[a-z]\w*|Users/\w+|work/(main|shared))(?![\w-])"),
    "unfinished work": re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b|raise NotImplemented[E]rror"),
}


def tracked_files() -> list[Path]:
    """Every file that is committed or would be, in a stable order."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return sorted(path for name in set(listed.split("\0")) if name and (path := ROOT / name).is_file())


def python_files(*folders: str) -> list[Path]:
    """Every tracked Python file below these folders."""
    roots = [ROOT / folder for folder in folders]
    return [p for p in tracked_files() if p.suffix == ".py" and any(p.is_relative_to(root) for root in roots)]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def parsed(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    return ((path, ast.parse(path.read_text(encoding="utf-8"), str(path))) for path in python_files(*folders))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls")]


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ".", node.lineno


def sleeps(tree: ast.AST) -> Iterator[int]:
    """The lines that sleep for a fixed time.

    A sleep of zero only yields, one inside a loop paces a condition that is looked at again, and a module that runs its
    tests on a virtual clock waits for nothing.
    """
    if any(isinstance(node, ast.Name) and node.id == "run_virtually" for node in ast.walk(tree)):
        return
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.While | ast.For | ast.AsyncFor)]
    paced = {id(inner) for loop in loops for inner in ast.walk(loop)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args or id(node) in paced:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        delay = node.args[0]
        if name == "sleep" and isinstance(delay, ast.Constant) and delay.value != 0:
            yield node.lineno


def test_modules_stay_short() -> None:
    counts = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files("node", "operator", "hack", "examples")
    }
    long = [f"{path.relative_to(ROOT)}: {count}" for path, count in counts.items() if count > MAX_MODULE_LINES]
    assert not long, f"modules over {MAX_MODULE_LINES} lines; which second idea lives in them?\n" + "\n".join(long)


def test_functions_take_few_parameters() -> None:
    wide = [
        f"{place(path, function.lineno)} {function.name} takes {len(parameters(function))}"
        for path, tree in parsed("node", "operator", "hack", "examples")
        for function in functions(tree)
        if len(parameters(function)) > MAX_PARAMETERS
    ]
    assert not wide, f"functions with more than {MAX_PARAMETERS} parameters\n" + "\n".join(wide)


def test_functions_stay_short() -> None:
    long = [
        f"{place(path, function.lineno)} {function.name} has {length} lines"
        for path, tree in parsed("node", "operator", "hack", "examples")
        for function in functions(tree)
        if (length := (function.end_lineno or function.lineno) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines\n" + "\n".join(long)


def test_core_imports_only_what_is_pure() -> None:
    impure = [
        f"{place(path, line)} imports {module}"
        for path, tree in parsed("node/agentworld_core")
        for module, line in imported_modules(tree)
        if module.split(".")[0] not in CORE_MAY_IMPORT
    ]
    assert not impure, "agentworld_core must not know clock, chance or input and output\n" + "\n".join(impure)


def test_core_does_not_reach_for_chance_by_another_name() -> None:
    """`cryptography` and `nacl` can generate keys; that is chance, and belongs to the shell."""
    generated = [
        place(path, node.lineno)
        for path, tree in parsed("node/agentworld_core")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.search(r"Key\.generate$|\.random$", ast.unparse(node))
    ]
    assert not generated, "keys are made in the shell, core is given them\n" + "\n".join(generated)


def undetermined(node: ast.AST) -> Iterator[str]:
    """What in core could differ from one machine, process or run to the next."""
    iterated: list[ast.expr] = []
    if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
        yield f"the float {node.value}"
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        yield "a division that gives a float"
    elif isinstance(node, ast.For | ast.comprehension):
        iterated = [node.iter]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("float", "hash", "id", "input", "open", "print"):
            yield f"a call of {node.func.id}"
        if node.func.id in ("dict", "enumerate", "filter", "iter", "list", "map", "next", "tuple", "zip"):
            iterated = node.args
    for found in iterated:
        if isinstance(found, ast.Set | ast.SetComp) or re.match(r"(frozen)?set\(", ast.unparse(found)):
            yield f"the order of the set {ast.unparse(found)}"


@pytest.mark.box("S0.3", "integers")
def test_core_does_not_depend_on_floats_or_on_the_order_of_sets() -> None:
    allowed = {"a call of hash": "node/agentworld_core/world/tree.py"}  # Tree.__hash__, which orders nothing
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path, tree in parsed("node/agentworld_core")
        for node in ast.walk(tree)
        for what in undetermined(node)
        if allowed.get(what) != str(path.relative_to(ROOT))
    ]
    assert not found, "every node must come to the same state\n" + "\n".join(found)


def test_operator_folder_is_not_a_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would hide the standard library's operator"


def test_tests_do_not_sleep() -> None:
    sleeping = [place(path, line) for path, tree in parsed("tests") for line in sleeps(tree)]
    assert not sleeping, "wait on a condition with a deadline\n" + "\n".join(sleeping)


def test_loops_that_wait_can_be_cancelled() -> None:
    """Python 3.11's wait_for forgets a cancellation that comes together with the end of what it waits for."""
    forgetful = [
        place(path, node.lineno)
        for path, tree in parsed("node", "operator")
        for loop in ast.walk(tree)
        if isinstance(loop, ast.While)
        for node in ast.walk(loop)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "wait_for"
    ]
    assert not forgetful, "use asyncio.timeout\n" + "\n".join(forgetful)


def test_errors_are_not_swallowed() -> None:
    silent = [
        place(path, node.lineno)
        for path, tree in parsed("node", "operator", "hack", "examples")
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not silent, "handle it, log it, or name it with contextlib.suppress\n" + "\n".join(silent)


@pytest.mark.parametrize("what", FORBIDDEN_TEXT)
def test_no_file_contains(what: str) -> None:
    found = []
    for path in tracked_files():
        if path.name in GENERATED_OR_QUOTED or b"\0" in (content := path.read_bytes())[:8192]:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
            if FORBIDDEN_TEXT[what].search(line):
                found.append(f"{place(path, number)} {line.strip()[:100]}")
    assert not found, f"{what}\n" + "\n".join(found)


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        f"{path.relative_to(ROOT)} -> {target}"
        for path in tracked_files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", outside_code(path.read_text(encoding="utf-8")))
        if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists()
    ]
    assert not dead, "links to nothing\n" + "\n".join(dead)


@pytest.mark.parametrize("lock", ["node", "operator", "dev"])
def test_locks_satisfy_what_the_project_asks_for(lock: str) -> None:
    """An edit of a requirement without `make lock` would install something else than what was asked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = locked_versions(lock)
    asked = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"][lock]]
    unmet = [str(r) for r in asked if r.name != project["name"] and not satisfied(r, pins)]
    assert not unmet, f"run make lock: requirements/{lock}.lock does not satisfy {unmet}"


@pytest.mark.parametrize("lock", ["node", "operator", "build"])
def test_locks_agree_with_each_other(lock: str) -> None:
    everything = locked_versions("dev")
    differing = {name: version for name, version in locked_versions(lock).items() if everything.get(name) != version}
    assert not differing, f"run make lock: requirements/{lock}.lock differs from dev.lock in {differing}"


@pytest.mark.parametrize("lock", ["node", "operator", "build", "dev"])
def test_every_locked_package_has_a_hash(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked_versions(lock))
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def outside_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", markdown, flags=re.MULTILINE | re.DOTALL)


def locked_versions(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE))


def satisfied(requirement: Requirement, pins: dict[str, str]) -> bool:
    pin = pins.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
    return pin is not None and requirement.specifier.contains(Version(pin), prereleases=True)
