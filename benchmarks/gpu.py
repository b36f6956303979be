"""The serving benchmark on a GPU with a model of real size; see ``gpu.md``. Ends cleanly where there is none.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

A model of the shape of Llama 3.1 8B with random weights by default (``--load-format dummy``): the answers are noise,
the work is real. ``--model`` takes a real one.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common import finish, machine, options, say
from contenders import started
from serving import Plan, goals, run, show
from shapes import SHAPES, make_shape

PLAN = Plan(rounds=3, extra_rounds=2, seconds=1.5, alone=6, waves=4, joined=1000, tokens=128, many=64, repeat_filler=8)
QUICK = replace(PLAN, rounds=1, extra_rounds=0, seconds=0.5, alone=2, waves=1, joined=100)


def why_not() -> str:
    """Why nothing can be measured here, or nothing."""
    try:
        version("vllm")
        version("vllm-enhance")
    except PackageNotFoundError as error:
        return f"{error.name} is not installed"
    import torch

    return "" if torch.cuda.is_available() else "PyTorch sees no CUDA GPU"


def graphics() -> dict[str, Any]:
    """Name and memory of the GPU, and the driver."""
    words = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"gpu": words.stdout.strip().splitlines()[:1] or "unknown"}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), default="8b", help="what to make up when there is no --model"
    )
    parser.add_argument("--model", help="directory or name of a real model")
    parser.add_argument("--memory", default="0.42", help="share of the GPU's memory for each of the two servers")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        say(f"skipped: {reason}")
        finish("gpu", {"skipped": reason}, out=None)
        return
    before = {**machine(), **graphics()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dummy = arguments.model is None
        model = arguments.model or str(make_shape(arguments.shape, folder / "model"))
        flags = ["--served-model-name", "tiny", "--max-model-len", "4096", "--gpu-memory-utilization", arguments.memory]
        flags += ["--load-format", "dummy", "--dtype", "bfloat16"] if dummy else []
        # One after the other: both look at how much of the GPU's memory is free.
        with started(model, folder, both=flags, defaults=(), together=False) as contenders:
            result = asyncio.run(run(contenders, QUICK if arguments.quick else PLAN))
    result["model"] = f"shape {arguments.shape}, random weights" if dummy else Path(model).name
    result["goals"] = goals(result)
    show(result["goals"])
    finish("gpu", result, out=arguments.out, before=before)


if __name__ == "__main__":
    main()
