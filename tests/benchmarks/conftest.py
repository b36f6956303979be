from __future__ import annotations

import sys

from bench_support import SCRIPTS

sys.path.append(str(SCRIPTS))  # at the end: benchmarks/trace.py must not hide the standard library's trace
