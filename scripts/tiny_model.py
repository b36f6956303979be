"""Print the directory of a tiny model that the real engine can serve, making it first if need be."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_enhance.testing.models import tiny_lora, tiny_model

CACHE = Path(__file__).resolve().parent.parent / ".cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where models are kept; default: .cache")
    parser.add_argument("--lora", type=int, metavar="SEED", help="print a LoRA adapter for it instead")
    options = parser.parse_args()
    print(tiny_model(options.cache) if options.lora is None else tiny_lora(options.cache, options.lora))


if __name__ == "__main__":
    main()
