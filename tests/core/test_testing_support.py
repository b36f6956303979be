"""The public test support: the server process with a stand-in for ``vllm``, and the tiny model itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from vllm_enhance.testing import server as server_module
from vllm_enhance.testing.server import ServerError, ServerProcess

ANSWERS = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        shown = {"argv": sys.argv[1:], "env": dict(os.environ)}
        self.wfile.write(json.dumps(shown).encode())
port = int(sys.argv[sys.argv.index("--port") + 1])
"""
SERVE = ANSWERS + "http.server.HTTPServer(('127.0.0.1', port), Handler).serve_forever()\n"
STUBBORN = (
    "import signal, subprocess, sys\n"
    "for number in (signal.SIGINT, signal.SIGTERM):\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('child', child.pid, flush=True)\n"
) + SERVE
ORPHANING = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', "
    "'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)'])\n"
    "print('child', child.pid, flush=True)\n"
) + SERVE


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "GRACE", tuple((number, 1.0) for number, _ in server_module.GRACE))
    monkeypatch.setattr(server_module, "ORPHAN_SECONDS", 0.5)


def program(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "vllm"
    path.write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
    path.chmod(0o755)
    return path


def process(tmp_path: Path, code: str, **more: object) -> ServerProcess:
    return ServerProcess("MODEL", ["--extra"], log=tmp_path / "log", executable=program(tmp_path, code), **more)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def child_of(server: ServerProcess) -> int:
    return int(server.log.read_text(encoding="utf-8").split("child ")[1].split()[0])


def test_it_serves_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENHANCE_CACHE_TTL", "1s")
    with process(tmp_path, SERVE, env={"ENHANCE_LOOKUP": "blocking"}) as server:
        with urllib.request.urlopen(f"{server.base_url}/anything", timeout=5) as response:
            shown = json.load(response)
        assert shown["argv"][:6] == ["serve", "MODEL", "--host", "127.0.0.1", "--port", str(server.port)]
        assert shown["argv"][-1] == "--extra"
        assert shown["env"]["HF_HUB_OFFLINE"] == "1"
        assert "ENHANCE_CACHE_TTL" not in shown["env"]
        assert shown["env"]["ENHANCE_LOOKUP"] == "blocking"
        pid = server.pid
        assert server.running
        assert alive(pid)
    assert not server.running
    assert not alive(pid)
    with pytest.raises(ServerError, match="not started"):
        _ = server.pid


def test_a_server_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    server = process(tmp_path, "print('no such model')\nraise SystemExit(3)\n")
    with pytest.raises(ServerError, match=r"(?s)ended with code 3.*no such model"):
        server.start()


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    told: list[float] = []
    server = process(tmp_path, "import time\ntime.sleep(600)\n", timeout=0.6, progress=told.append)
    started = time.monotonic()
    with pytest.raises(ServerError, match="did not answer within 1 s"):
        server.start()
    assert time.monotonic() - started < 5.0
    assert server.stop() is None


@pytest.mark.parametrize("code", [STUBBORN, ORPHANING], ids=["stubborn", "orphaning"])
def test_nothing_of_its_group_is_left(tmp_path: Path, code: str) -> None:
    with process(tmp_path, code) as server:
        leader, child = server.pid, child_of(server)
        assert alive(child)
    assert not alive(leader)
    deadline = time.monotonic() + 3.0
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_stopping_touches_only_its_own_group(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with process(tmp_path, STUBBORN):
            pass
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def in_fresh_python(code: str) -> str:
    # torch warns on import, which this suite would take for a failure.
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_tiny_model_is_the_same_each_time_and_made_once_by_many(tmp_path: Path) -> None:
    code = f"""
import hashlib, threading
from pathlib import Path
from vllm_enhance.testing.models import make_tiny_model, tiny_lora, tiny_model
cache = Path({str(tmp_path)!r})
import transformers
found = []
threads = [threading.Thread(target=lambda: found.append(tiny_model(cache))) for _ in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(set(found)) == 1 and len(found) == 2
tiny_lora(cache, 1), tiny_lora(cache, 2)
def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
again = cache / "again"
make_tiny_model(again)
loras = sorted(cache.glob("tiny-lora-*/adapter_model.safetensors"))
print(
    digest(again / "tokenizer.json") == digest(found[0] / "tokenizer.json"),
    len(loras), len({{digest(lora) for lora in loras}}),
    sorted(p.name.split("-")[0] for p in cache.iterdir()),
)
"""
    assert in_fresh_python(code) == "True 2 2 ['again', 'tiny', 'tiny', 'tiny']"


def test_its_tokenizer_is_bytes_and_its_template_knows_every_role(tiny_model: Path) -> None:
    code = f"""
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(tiny_model)!r})
text = "a\\u00e9\\u4e2d"
assert tokenizer(text).input_ids == list(text.encode()), tokenizer(text).input_ids
assert tokenizer.decode(tokenizer(text).input_ids) == text
messages = [
    {{"role": "developer", "content": "D"}},
    {{"role": "system", "content": "S"}},
    {{"role": "user", "content": "U"}},
    {{"role": "assistant", "content": None, "tool_calls": [{{"id": "c"}}]}},
    {{"role": "tool", "content": "T", "tool_call_id": "c"}},
]
print(tokenizer.apply_chat_template(messages, tools=[{{"x": 1}}], tokenize=False, add_generation_prompt=True))
"""
    assert in_fresh_python(code) == (
        '<|bos|><|system|>You may call these tools:{"x": 1}<|end|><|system|>D<|end|><|system|>S<|end|><|user|>U<|end|>'
        '<|assistant|>[{"id": "c"}]<|end|><|tool|>T (c)<|end|><|assistant|>'
    )
