"""Starting what is compared: plain vLLM, vLLM with ``--enhance``, and LiteLLM's proxy before plain vLLM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import say
from load import Target

from vllm_enhance.testing.server import ServerProcess, free_port

__all__ = [
    "Contender",
    "LiteLLM",
    "given",
    "install_litellm",
    "litellm_version",
    "metric",
    "model_directory",
    "started",
]

ENHANCE = ("--enhance",)
LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download at start
    "LITELLM_LOG": "ERROR",
    # On loopback without a key, as the vLLM servers beside it: checking none is the cheapest for it.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "NO_PROXY": "*",
}


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to be served.

    Attributes:
        name: ``plain``, ``enhanced`` or ``litellm``.
        target: where callers ask.
        pids: leaders of the process families that do the work, by name.
        engine: where the engine's counters are, which is the target but for a proxy.
    """

    name: str
    target: Target
    pids: dict[str, int]
    engine: Target


def model_directory(model: str | None, cache: Path) -> str:
    """``model``, or the tiny one made on the spot."""
    if model is not None:
        return model
    from vllm_enhance.testing.models import tiny_model

    return str(tiny_model(cache))


def metric(target: Target, name: str) -> float:
    """Sum over the labels of one metric of a vLLM server."""
    with urllib.request.urlopen(f"{target.url}/metrics", timeout=30) as response:
        text = response.read().decode()
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for value in values)


class LiteLLM:
    """LiteLLM's proxy with its in-memory cache on, from an environment of its own."""

    def __init__(self, environment: Path, upstream: Target, folder: Path, model: str = "tiny") -> None:
        self.port = free_port()
        self._folder, self._environment = folder, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._config = {
            "model_list": [
                {
                    "model_name": model,
                    "litellm_params": {
                        "model": f"hosted_vllm/{model}",
                        "api_base": f"{upstream.url}/v1",
                        "api_key": "none",
                    },
                }
            ],
            "litellm_settings": {"cache": True, "cache_params": {"type": "local", "ttl": 3600}, "telemetry": False},
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            RuntimeError: it does not; the message ends with its last log lines.
        """
        config = self._folder / "litellm.yaml"
        config.write_text(json.dumps(self._config))  # JSON is YAML
        command = [str(self._environment / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
        environment = {**os.environ, **LITELLM_ENVIRONMENT}
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), "--num_workers", "1"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=(self._folder / "litellm.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while not self._alive():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = (self._folder / "litellm.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"LiteLLM's proxy did not start:\n{tail}")
            time.sleep(0.25)

    def stop(self) -> None:
        """Stop it and what it started."""
        process = self._process
        if process is None:
            return
        for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(process.pid, number)
                process.wait(seconds)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue
            return

    def _alive(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/liveliness", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


def litellm_version(environment: Path | None) -> dict[str, str]:
    """``{"litellm": version}`` of an environment, or nothing."""
    if environment is None:
        return {}
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    done = subprocess.run([environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=False)
    return {"litellm": done.stdout.strip()} if done.returncode == 0 else {}


def install_litellm(environment: Path) -> None:
    """Make an environment with LiteLLM's proxy; a minute or two."""
    say(f"installing litellm[proxy] into {environment}")
    venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin" / "pip", "install", "--quiet", "litellm[proxy]"], check=True)


def _vllm(
    name: str, model: str, arguments: Sequence[str], folder: Path, defaults: Sequence[str] | None
) -> ServerProcess:
    more = {} if defaults is None else {"defaults": defaults}
    return ServerProcess(model, arguments, log=folder / f"{name}.log", timeout=600, **more)


def given(plain: str | None, enhanced: str | None) -> list[Contender]:
    """Running servers, each as ``URL[,PID]``, instead of ones of our own."""
    found = []
    for name, text in (("plain", plain), ("enhanced", enhanced)):
        if text is not None:
            target = Target.of(text)
            found.append(Contender(name, target, {"vllm": target.pid} if target.pid else {}, target))
    return found


@contextmanager
def started(
    model: str,
    folder: Path,
    *,
    litellm: Path | None = None,
    enhance: Sequence[str] = ENHANCE,
    both: Sequence[str] = (),
    defaults: Sequence[str] | None = None,
    together: bool = True,
) -> Iterator[list[Contender]]:
    """The contenders, all running at once on this machine; idle ones cost nearly nothing.

    Args:
        litellm: environment with LiteLLM's proxy; left out without one.
        enhance: flags of the enhanced server.
        both: further flags of both vLLM servers.
        defaults: in the place of the flags that suit the tiny model.
        together: start both at the same time.
    """
    flags = {"plain": tuple(both), "enhanced": (*both, *enhance)}
    servers = {name: _vllm(name, model, each, folder, defaults) for name, each in flags.items()}
    upstream = Target("127.0.0.1", servers["plain"].port)
    proxy = None if litellm is None else LiteLLM(litellm, upstream, folder)
    starts = [*servers.values(), *([proxy] if proxy is not None else [])]
    with ExitStack() as stack:
        # Every one is stopped, whichever failed to start.
        for each in starts:
            stack.callback(each.stop)
        with ThreadPoolExecutor(len(starts) if together else 1) as pool:
            list(pool.map(lambda each: each.start(), starts))
        found = []
        for name, server in servers.items():
            target = Target("127.0.0.1", server.port, server.pid)
            found.append(Contender(name, target, {"vllm": server.pid}, target))
        if proxy is not None:
            pids = {"litellm": proxy.pid, "vllm": servers["plain"].pid}
            found.append(Contender("litellm", Target("127.0.0.1", proxy.port, proxy.pid), pids, found[0].target))
        say("serving: " + ", ".join(each.name for each in found))
        yield found


if __name__ == "__main__":  # python benchmarks/contenders.py DIR: make LiteLLM's environment
    install_litellm(Path(sys.argv[1]))
