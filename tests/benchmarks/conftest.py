from __future__ import annotations

import sys

from bench_support import SCRIPTS

sys.path.insert(0, str(SCRIPTS))
