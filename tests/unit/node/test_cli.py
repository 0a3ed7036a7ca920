"""The commands of the command line against a node that runs, and against gateways that do not do what they should."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from agentworld_client import gateway as gateway_module
from agentworld_client import submit as submit_module
from agentworld_client.keys import save
from agentworld_core.codec import encode
from agentworld_core.messages import RevokedKey
from agentworld_core.signing import unsigned_id
from agentworld_node.cli.app import FAILED, INTERRUPTED, NO_ANSWER, NOT_VERIFIED, USAGE, app, load_commands, main
from agentworld_node.cli.nodes import read_config
from agentworld_node.node import Node
from tests.unit.client.scripted import ScriptedGateway, hang_up, refusal, scripted
from tests.unit.node.conftest import ALONE
from tests.unit.node.material import Material, next_epoch, revocation, signer
from tests.unit.node.running import MemoryWorld

load_commands()
SECONDS = 30


def invoke(*words: object, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=text)


class Background:
    """Something asynchronous that runs in a thread of its own while commands run in the test's."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SECONDS)
        self.loop.close()


@pytest.fixture
def background() -> Iterator[Background]:
    made = Background()
    yield made
    made.end()


@pytest.fixture
def material(tmp_path: Path) -> Material:
    folder = tmp_path / "world"
    folder.mkdir()
    return Material(folder, validators=("v0",), parameters=ALONE)


@pytest.fixture
def node(background: Background, material: Material, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A world of one validator that commits what it gets, and is the gateway of the commands."""
    world = MemoryWorld(material)

    async def start() -> Node:
        return (await world.start())[0].node

    running = background.do(start())
    monkeypatch.setenv("AGENTWORLD_GATEWAY", f"http://127.0.0.1:{running.http_port}")
    yield running
    background.do(world.stop())


@pytest.fixture
def ada(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "ada.pem"
    save(signer("ada"), path)
    return ("--key", str(path), "--agent", "ada")


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands give up at once, where a person would want them to try again."""
    make = gateway_module.GatewayClient.__init__
    monkeypatch.setattr(
        gateway_module.GatewayClient, "__init__", lambda self, url: make(self, url, patience=0, request_timeout=5)
    )


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestSubmitting:
    def test_actions_are_committed_and_shown(self, node: Node, ada: tuple[str, ...]) -> None:
        result = invoke("submit", *ada, "agent.register", '{"position": [0, 0]}', "agent.move", '{"to": [3, 4]}')
        assert result.exit_code == 0, result.output
        assert result.stdout.count("committed") == 2
        result = invoke("submit", *ada, "agent.move", '{"to": [5, 5]}', "--output", "json")
        (receipt,) = lines(result)
        assert (result.exit_code, receipt["status"], receipt["ok"]) == (0, "committed", True)

    def test_actions_come_from_a_file_or_standard_input(self, node: Node, ada: tuple[str, ...], tmp_path: Path) -> None:
        rows = [
            {"kind": "agent.register", "payload": {"position": [0, 0]}},
            {"kind": "agent.move", "payload": {"to": [1, 1]}},
        ]
        text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
        (tmp_path / "actions").write_text(text)
        assert invoke("submit", *ada, "--file", tmp_path / "actions").exit_code == 0
        more = json.dumps(rows[1])
        assert invoke("submit", *ada, "--file", "-", text=more).exit_code == 0
        assert node.ledger.chain.tree.get(b"agent/ada") is not None

    def test_a_refusal_is_shown_and_is_exit_code_1(self, node: Node, ada: tuple[str, ...]) -> None:
        result = invoke("submit", *ada, "agent.move", '{"to": [1, 1]}')
        assert result.exit_code == FAILED
        assert "unauthorized" in result.stdout
        invoke("submit", *ada, "agent.register", '{"position": [0, 0]}')
        result = invoke("submit", *ada, "message.send", '{"to": "nobody", "body": "hello"}', "-o", "json")
        assert (result.exit_code, lines(result)[0]["ok"]) == (FAILED, False)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ((), "KIND"),
            (("agent.move", "{"), "is not JSON"),
            (("agent.move", '{"to": 1.5}'), "may not hold float"),
            (("Not A Kind",), "action_kind"),
            (("--file", "nowhere"), "cannot be read"),
            (("--file", "-"), "holds no actions"),
        ],
    )
    def test_what_cannot_be_an_action_is_told(
        self, node: Node, ada: tuple[str, ...], words: tuple[str, ...], says: str
    ) -> None:
        result = invoke("submit", *ada, *words, text="")
        assert result.exit_code == FAILED
        assert says in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize("text", ["[]", "3", '{"payload": {}}', '{"kind": "agent.move", "payload": [1]}', "{"])
    def test_lines_that_are_no_actions_are_named(self, node: Node, ada: tuple[str, ...], text: str) -> None:
        good = '{"kind": "agent.register", "payload": {"position": [0, 0]}}\n'
        result = invoke("submit", *ada, "--file", "-", text=good + text)
        assert (result.exit_code, "line 2" in result.stderr) == (FAILED, True)

    def test_keys_that_are_none_are_told(self, node: Node, tmp_path: Path) -> None:
        result = invoke("submit", "--key", tmp_path / "none", "--agent", "ada", "agent.move")
        assert (result.exit_code, "no such key file" in result.stderr) == (FAILED, True)
        assert invoke("submit", "agent.move").exit_code == USAGE


class TestReading:
    def test_an_address_that_is_no_gateway_is_no_world_without_blocks(self, node: Node) -> None:
        result = invoke("head", "--gateway", f"http://127.0.0.1:{node.http_port}/elsewhere")
        assert (result.exit_code, "path" in result.stderr) == (FAILED, True), result.output

    def test_head_status_and_keys(self, node: Node, ada: tuple[str, ...]) -> None:
        assert "no block has been committed yet" in invoke("head").stdout
        assert lines(invoke("head", "-o", "json")) == [None]
        invoke("submit", *ada, "agent.register", '{"position": [0, 0]}')
        (head,) = lines(invoke("head", "-o", "json"))
        assert (head["height"], head["state_root"]) == (1, node.ledger.chain.state_root)
        assert node.ledger.chain.state_root in invoke("head").stdout
        (status,) = lines(invoke("status", "--gateway", f"http://127.0.0.1:{node.http_port}", "-o", "json"))
        assert (status["node_id"], status["head"]["height"]) == ("v0", 1)
        assert "v0" in invoke("status", "--gateway", f"http://127.0.0.1:{node.http_port}").stdout
        (rows,) = lines(invoke("keys", "list", "-o", "json"))
        assert {(row["owner"], row["key_id"]) for row in rows} == {
            ("governance", signer("gov").key_id),
            ("v0", signer("v0").key_id),
        }
        assert "governance" in invoke("keys", "list").stdout

    def test_revoked_keys_are_listed_once_a_directory_has_them(self, node: Node, background: Background) -> None:
        statement = revocation(signer("eve").key_id)
        directory = next_epoch(
            node.ledger.genesis.directory, revoked=[RevokedKey(statement.key_id, unsigned_id(statement))]
        )
        background.do(node.membership.submit_directory(directory))
        background.do(node.ledger.wait_height(2, seconds=SECONDS))
        (rows,) = lines(invoke("keys", "list", "-o", "json"))
        assert [row["key_id"] for row in rows if row["state"] == "revoked"] == [statement.key_id]

    def test_blocks_are_followed_from_the_past(self, node: Node, ada: tuple[str, ...]) -> None:
        invoke("submit", *ada, "agent.register", '{"position": [0, 0]}')
        invoke("submit", *ada, "agent.move", '{"to": [1, 1]}')
        result = invoke("follow", "--from", 1, "--count", 2, "-o", "json")
        assert result.exit_code == 0
        assert [document["height"] for document in lines(result)] == [1, 2]
        assert invoke("follow", "--from", 2, "--count", 1).stdout.startswith("2 ")

    def test_a_height_that_is_far_ahead_is_said_to_be_waited_for(self, background: Background) -> None:
        answers = web.json_response({"head": {"height": 3}}), web.Response(body=b"")
        with background_gateway(background, *answers) as gateway:
            result = invoke("follow", "--from", 99, "--gateway", gateway.url)
        assert "the newest height is 3; waiting for 99" in result.stderr
        assert invoke("follow", "--from", 0).exit_code == USAGE

    def test_a_stream_that_ends_is_exit_code_3(self, background: Background) -> None:
        with background_gateway(background, web.Response(body=b"")) as gateway:
            result = invoke("follow", "--gateway", gateway.url)
        assert (result.exit_code, "closed the stream" in result.stderr) == (NO_ANSWER, True)

    def test_version_and_help(self) -> None:
        assert invoke("version").stdout.startswith("agentworld ")
        assert set(lines(invoke("version", "-o", "json"))[0]) == {"version"}
        text = invoke("--help").stdout
        for command in ("submit", "head", "follow", "verify", "diff", "export", "import", "keys", "status", "node"):
            assert command in text
            assert invoke(command, "--help").exit_code == 0
        for command in ("inspect", "version"):
            assert command in text
            assert invoke(command, "--help").exit_code == 0
        assert "Exit codes" in text
        assert invoke("no-such-command").exit_code == USAGE
        assert invoke("head", "--colour", "red").exit_code == USAGE
        assert invoke("head", "--output", "yaml").exit_code == USAGE


class TestVerifying:
    @pytest.mark.box("S7.3", "command")
    def test_a_right_world_is_verified_and_its_store_used_again(
        self, node: Node, ada: tuple[str, ...], tmp_path: Path
    ) -> None:
        invoke("submit", *ada, "agent.register", '{"position": [0, 0]}')
        result = invoke("verify", "--replay", "--store", tmp_path / "store", "-o", "json")
        (report,) = lines(result)
        assert (result.exit_code, report["state_root"]) == (0, node.ledger.chain.state_root)
        assert report["replayed"] is True
        result = invoke("verify", "--store", tmp_path / "store", "--genesis-hash", report["genesis_hash"])
        assert result.exit_code == 0
        assert "0 read, 1 from the store" in result.stdout

    def test_a_wrong_one_is_exit_code_4_with_the_height(self, node: Node, ada: tuple[str, ...], tmp_path: Path) -> None:
        invoke("submit", *ada, "agent.register", '{"position": [0, 0]}')
        result = invoke("verify", "--genesis", "a" * 64)
        assert (result.exit_code, "height 0" in result.stderr) == (NOT_VERIFIED, True)
        result = invoke("verify", "--genesis", "a" * 64, "-o", "json")
        assert json.loads(result.stderr)["error"]["height"] == 0

    def test_a_height_that_is_not_there_yet_is_exit_code_3(self, node: Node) -> None:
        assert invoke("verify", "--height", 7).exit_code == NO_ANSWER
        assert invoke("verify", "--height", -1).exit_code == USAGE

    def test_two_states_that_do_not_differ_are_said_not_to(self, node: Node, ada: tuple[str, ...]) -> None:
        invoke("submit", *ada, "agent.register", '{"position": [0, 0]}')
        result = invoke("diff", 1, 1)
        assert (result.exit_code, "nothing changed" in result.stdout) == (0, True)
        assert "nothing changed" not in invoke("diff", 0, 1).stdout

    def test_a_folder_that_cannot_be_made_is_named(self, node: Node, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file" / "store", Path("/proc/store")):
            result = invoke("verify", "--store", folder)
            assert (result.exit_code, str(folder) in result.stderr) == (FAILED, True)
            assert result.stderr.startswith("error (invalid_field) store: cannot be used: ")


class TestInspecting:
    def test_a_node_proves_what_it_shows(self, node: Node, ada: tuple[str, ...]) -> None:
        (receipt,) = lines(invoke("submit", *ada, "agent.register", '{"position": [2, 3]}', "-o", "json"))
        (found,) = lines(invoke("inspect", "agent", "ada", "-o", "json"))
        assert (found["value"]["position"], found["state_root"]) == ([2, 3], node.ledger.chain.state_root)
        assert "a path through the state tree" in found["proof"][-1]
        assert "checked" in invoke("inspect", "receipt", receipt["action_id"]).stdout
        (block,) = lines(invoke("inspect", "block", 1, "-o", "json"))
        assert block["block_hash"] == node.ledger.chain.block_hash
        (segment,) = lines(invoke("inspect", "segment", block["segments"][0]["content_hash"], "-o", "json"))
        assert segment["height"] == 1
        assert lines(invoke("inspect", "state", "meta", "--height", 0, "-o", "json"))[0]["value"]["tick"] == 0

    def test_what_is_not_there_is_proved_too(self, node: Node, ada: tuple[str, ...]) -> None:
        result = invoke("inspect", "agent", "nobody")
        assert (result.exit_code, "proves" in result.stderr) == (FAILED, True)
        assert invoke("inspect", "block", 7).exit_code == FAILED
        assert invoke("inspect", "receipt", "a" * 64).exit_code == FAILED


class TestKeys:
    def test_a_key_is_made_shown_and_not_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "ada.pem"
        (made,) = lines(invoke("keys", "generate", path, "-o", "json"))
        (shown,) = lines(invoke("keys", "show", path, "-o", "json"))
        assert shown == made
        assert made["peer_id"].startswith("12D3KooW")
        result = invoke("keys", "generate", path)
        assert (result.exit_code, "exists already" in result.stderr) == (FAILED, True)
        assert invoke("keys", "generate", path, "--force").exit_code == 0
        (other,) = lines(invoke("keys", "show", path, "-o", "json"))
        assert other["key_id"] != made["key_id"]
        assert "key id" in invoke("keys", "show", path).stdout

    def test_what_is_no_key_is_told_as_json_on_request(self, tmp_path: Path) -> None:
        result = invoke("keys", "show", tmp_path / "none", "-o", "json")
        assert result.exit_code == FAILED
        assert result.stdout == ""
        assert json.loads(result.stderr)["error"]["code"] == "not_found"


class TestWrongGateways:
    @pytest.fixture(autouse=True)
    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        impatient(monkeypatch)

    @pytest.mark.parametrize("words", [("head",), ("status",), ("verify",), ("keys", "list"), ("follow",)])
    def test_nobody_there_is_exit_code_3(self, words: tuple[str, ...]) -> None:
        result = invoke(*words, "--gateway", "http://127.0.0.1:1")
        assert result.exit_code == NO_ANSWER
        assert "no answer from http://127.0.0.1:1" in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("address", ["nonsense", "ftp://host", "http://", "http://host:99999", "http://host:x"])
    def test_what_is_no_address_is_told(self, address: str) -> None:
        result = invoke("head", "--gateway", address)
        assert result.exit_code == FAILED
        assert f"gateway: is not the address of a gateway (got '{address}')" in result.stderr

    @pytest.mark.parametrize("words", [("head",), ("status",), ("verify",), ("keys", "list"), ("follow",)])
    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (refusal(400, "invalid_field", retryable=False), FAILED),
            (refusal(503, "busy", retryable=True), FAILED),
            (refusal(504, "timed_out", retryable=True), NO_ANSWER),
            (web.Response(status=500, body=b"<html>"), FAILED),
            (hang_up, NO_ANSWER),
        ],
    )
    def test_errors_of_the_gateway_are_told_in_one_sentence(
        self, background: Background, words: tuple[str, ...], answer: Any, code: int
    ) -> None:
        with background_gateway(background, answer) as gateway:
            result = invoke(*words, "--gateway", gateway.url)
        assert result.exit_code == code, result.output
        assert result.stderr.startswith("error ")
        assert result.stdout == ""

    def test_garbage_is_told_too(self, background: Background) -> None:
        with background_gateway(background, web.Response(body=b"garbage")) as gateway:
            for words in (("head",), ("status",), ("verify",), ("keys", "list")):
                result = invoke(*words, "--gateway", gateway.url)
                assert (result.exit_code, result.stderr.startswith("error ")) == (FAILED, True)

    def test_an_action_that_is_not_committed_in_time_is_exit_code_3(
        self, background: Background, ada: tuple[str, ...], material: Material
    ) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            if request.path == "/v1/genesis":
                return web.Response(body=encode(material.genesis))
            return web.json_response({"results": [{"action_id": "a" * 64, "status": "pooled"}]})

        with background_gateway(background, answer) as gateway:
            words = ("submit", *ada, "--gateway", gateway.url, "agent.move", '{"to": [1, 1]}')
            assert invoke(*words).exit_code == NO_ANSWER
            assert invoke(*words, "--no-wait").exit_code == 0

    def test_who_got_no_answer_is_unknown_and_the_receipts_of_others_are_shown(
        self,
        background: Background,
        ada: tuple[str, ...],
        material: Material,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(submit_module, "SUBMIT_CHUNK", 1)
        genesis = web.Response(body=encode(material.genesis))
        first = web.json_response({"results": [{"action_id": "a" * 64, "status": "pooled"}]})
        with background_gateway(background, genesis, first, hang_up) as gateway:
            words = ("agent.move", '{"to": [1, 1]}', "agent.move", '{"to": [2, 2]}')
            result = invoke("submit", *ada, "--no-wait", *words, "--gateway", gateway.url)
        assert result.exit_code == NO_ANSWER, result.output
        _, taken, lost = result.stdout.splitlines()
        assert taken.split()[:2] == ["a" * 12, "pooled"]
        assert lost.split()[1:4] == ["unknown", "-", "gateway_unreachable:"]

    @pytest.mark.parametrize("text", ["[red]x[/red]", "[/x]", "\\\\[/x]"])
    def test_what_others_say_is_no_markup(
        self, background: Background, ada: tuple[str, ...], material: Material, text: str
    ) -> None:
        results = web.json_response({"results": [{"error": {"code": text, "message": text}}]})
        words = ("submit", *ada, "agent.move", '{"to": [1, 1]}')
        with background_gateway(background, web.Response(body=encode(material.genesis)), results) as gateway:
            result = invoke(*words, "--gateway", gateway.url)
        assert result.exit_code == FAILED
        assert f"{text}: {text}" in result.stdout
        refused = web.json_response({"error": {"code": text, "message": text}}, status=400)
        with background_gateway(background, refused) as gateway:
            result = invoke(*words, "--gateway", gateway.url)
        assert result.exit_code == FAILED
        assert result.stderr.strip() == f"error ({text}) {text}"


class TestNode:
    def test_settings_that_are_wrong_are_exit_code_1(self, material: Material, tmp_path: Path) -> None:
        good = material.config("v0").to_dict()
        path = tmp_path / "node.json"
        cases: list[tuple[Any, str]] = [
            ({**good, "roles": ["validator", "king"]}, "is not a role"),
            ({**good, "http_port": 99999}, "is not a port"),
            ({**good, "colour": "red"}, "is not a setting"),
            ({**good, "world_id": "No Such"}, "world_id"),
            ({**good, "world_id": 3}, "must be str"),
            ({**good, "key_folder": ""}, "key_folder"),
            ({**good, "lease": {**good["lease"], "duration_ms": 1}}, "lease"),
            ({**good, "lease": {**good["lease"], "kind": "stone"}}, "is not a kind of lease"),
            ([], "must be a mapping"),
        ]
        for settings, words in cases:
            path.write_text(json.dumps(settings))
            result = invoke("node", "--config", path)
            assert (result.exit_code, words in result.stderr) == (FAILED, True), (settings, result.stderr)
        path.write_text("{")
        assert "is not what its name says" in invoke("node", "--config", path).stderr
        (tmp_path / "node.yaml").write_text("a: [")
        assert "is not what its name says" in invoke("node", "--config", tmp_path / "node.yaml").stderr
        assert "cannot be read" in invoke("node", "--config", tmp_path / "none").stderr
        path.write_text(json.dumps(good))
        assert "is not a role" in invoke("node", "--config", path, "--roles", "validator,king").stderr
        assert "is not a role" in invoke("node", "--config", path, "--roles", "").stderr
        assert "is not a level" in invoke("node", "--config", path, "--log-level", "loud").stderr
        assert invoke("node").exit_code == USAGE

    def test_yaml_is_as_good_as_json(self, material: Material, tmp_path: Path) -> None:
        config = material.config("v0")
        path = tmp_path / "node.yml"
        path.write_text(json.dumps(config.to_dict(), indent=2))
        assert read_config(path) == config


class TestMain:
    def test_what_nobody_expected_is_one_sentence_unless_more_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("agentworld_node.cli.app.app", lambda: 1 // 0)
        monkeypatch.delenv("AGENTWORLD_DEBUG", raising=False)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == FAILED
        assert "ZeroDivisionError" in capsys.readouterr().err
        monkeypatch.setenv("AGENTWORLD_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            main()

    def test_an_interrupt_is_exit_code_130(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_self: object, *_rest: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(gateway_module.GatewayClient, "__init__", interrupt)
        assert invoke("head").exit_code == INTERRUPTED


class background_gateway:  # noqa: N801 - used like a function
    """A scripted gateway in the background."""

    def __init__(self, background: Background, *answers: Any):
        self._background = background
        self._context = scripted(*answers)

    def __enter__(self) -> ScriptedGateway:
        gateway: ScriptedGateway = self._background.do(self._context.__aenter__())
        return gateway

    def __exit__(self, *_rest: object) -> None:
        self._background.do(self._context.__aexit__(None, None, None))
