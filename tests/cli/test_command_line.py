"""The command line against real HTTP: our routes over a real uvicorn, vLLM's own authentication in front."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "ui"))

from page_support import HOSTILE, KEY, Books, serving, shared_books

from vllm_enhance.cli import build
from vllm_enhance.types import Source


@pytest.fixture
def books() -> Books:
    return shared_books().emptied()


@pytest.fixture
def url(books: Books) -> Iterator[str]:
    with serving(books, key=KEY) as address:
        books.serve(1, Source.ENGINE)
        books.serve(8, Source.MEMORY)
        yield address


def invoke(*arguments: str, text: str = "", key: str = KEY) -> Result:
    return CliRunner().invoke(build([]), list(arguments), input=text, env={"VLLM_API_KEY": key, "COLUMNS": "200"})


def told(*arguments: str) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def problem(*arguments: str, key: str = KEY) -> str:
    """What a person reads when it fails."""
    result = invoke(*arguments, key=key)
    assert result.exit_code == 1
    return str(result.exception)


def test_stats_for_people_and_for_scripts(url: str) -> None:
    found = told("stats", "--base-url", url)
    assert found["all_processes"]["requests"]["memory"] >= 1
    assert found["process"]["hooks"]["cache"]["memory"]["entries"] == 1
    shown = invoke("stats", "--base-url", url + "/v1/").stdout
    assert "from memory" in shown
    assert "cache.memory.entries" in shown


def test_top_shows_what_happens_between_two_looks(url: str, books: Books) -> None:
    def load() -> None:
        for number in range(20):
            books.serve(number, Source.MEMORY if number % 4 else Source.ENGINE)
            time.sleep(0.02)

    thread = threading.Thread(target=load)
    thread.start()
    result = invoke("top", "--base-url", url, "--every", "0.6", "--count", "1", "--json")
    thread.join()
    assert result.exit_code == 0, (result.output, result.exception)
    line = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    assert line["by_source"]["memory"] > line["by_source"]["engine"] > 0
    assert 0.5 < line["hit_rate"] < 1.0
    assert 0 < line["reused"][0] < line["generated"][0]
    assert "hit rate" in invoke("top", "--base-url", url, "--every", "0.2", "--count", "1").stdout


def test_explain_says_why(url: str) -> None:
    assert told("explain", "chatcmpl-00000001", "--base-url", url)["source"] == "engine"
    shown = invoke("explain", "chatcmpl-00000001", "--base-url", url).stdout
    assert "Generated: a miss." in shown
    assert "differs in: temperature, prompt" in shown
    assert "nearest 0.913, below 0.95" in shown
    assert "from memory" in invoke("explain", "last", "--base-url", url).stdout


def test_explain_of_an_unknown_request(url: str) -> None:
    assert "no request 'nope' is remembered" in problem("explain", "nope", "--base-url", url)


def test_terminal_codes_and_markup_in_questions_are_shown_as_text(url: str, books: Books) -> None:
    books.serve(4, Source.MEMORY, question=f"\x1b[31mred\x1b]0;owned\x07 [bold]x[/bold] {HOSTILE}")
    shown = invoke("explain", "chatcmpl-00000004", "--base-url", url).stdout
    assert "[bold]x[/bold]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_flush_counts_asks_and_forgets(url: str) -> None:
    assert "1 stored answer would go." in invoke("flush", "--scope", "all", "--dry-run", "--base-url", url).stdout
    refused = invoke("flush", "--scope", "all", "--base-url", url, text="n\n")
    assert refused.exit_code == 1
    silent = invoke("flush", "--scope", "all", "--base-url", url)
    assert silent.exit_code == 1
    assert told("flush", "--scope", "all", "--dry-run", "--base-url", url)["removed"] == 1
    assert "1 stored answer forgotten." in invoke("flush", "--scope", "all", "--base-url", url, text="y\n").stdout
    assert told("flush", "--scope", "all", "--yes", "--base-url", url)["removed"] == 0


def test_flush_tells_what_the_server_does_not_understand(url: str) -> None:
    assert "scope=age wants" in problem("flush", "--scope", "age", "--value", "soon", "--base-url", url)


def test_feedback_is_passed_on(url: str, books: Books) -> None:
    assert (
        "its stored answer is forgotten" in invoke("feedback", "chatcmpl-00000001", "wrong", "--base-url", url).stdout
    )
    assert books.verdicts == [("chatcmpl-00000001", "wrong")]
    assert invoke("feedback", "chatcmpl-00000001", "maybe", "--base-url", url).exit_code == 2


# --------------------------------------------------------------------------- when it cannot


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        said = problem("stats", "--base-url", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "no server answers" in said
    assert "vllm serve MODEL --enhance" in said


def test_no_key_and_a_wrong_key(url: str) -> None:
    assert "wants an API key" in problem("stats", "--base-url", url, key="")
    said = problem("stats", "--base-url", url, key="a-wrong-secret")
    assert "refuses this API key" in said
    assert "a-wrong-secret" not in said


def test_an_address_that_is_none() -> None:
    assert "is no address" in problem("stats", "--base-url", "localhost:8000")


class Other(http.server.BaseHTTPRequestHandler):
    """Something else at that address."""

    answers: ClassVar = {"/json": b'{"error": {"message": "Not Found"}}', "/page": b"<html>"}

    def do_GET(self) -> None:
        body = self.answers["/" + self.path.split("/")[1]]
        self.send_response(404 if body.startswith(b"{") else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_without_the_plugin(other: str) -> None:
    assert "runs without vllm-enhance; start it with --enhance" in problem("stats", "--base-url", other + "/json")


def test_something_that_is_no_vllm(other: str) -> None:
    assert "is not vLLM" in problem("stats", "--base-url", other + "/page")


# --------------------------------------------------------------------------- commands of others


def test_a_command_that_cannot_be_loaded_harms_no_other() -> None:
    app = build([EntryPoint("odd", "no_such_module_anywhere:odd", "vllm_enhance.commands")])
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
    result = CliRunner().invoke(app, ["odd"])
    assert result.exit_code == 1
    assert "no_such_module_anywhere" in str(result.exception)


def test_nobody_replaces_a_command_of_the_core() -> None:
    app = build([EntryPoint("stats", "json:dumps", "vllm_enhance.commands")])
    assert sum(command.name == "stats" for command in app.registered_commands) == 1
