"""A process with both hooks on a store, run by ``test_similarity_processes.py``: commands come as JSON lines.

    python sharing_process.py MODEL STORE_URL

Answers with a JSON line each: ``ready``, then the result of ``generate``, ``ask``, ``until`` (ask until this answer;
the Unix time when), ``forget`` or ``mark`` (feedback on the last answer of ``ask``).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from similarity_support import Peer, peer

from vllm_enhance.types import InvalidationScope, RequestContext


async def obey(here: Peer, order: dict[str, Any], asked: list[RequestContext]) -> Any:
    kind, text = order["do"], order.get("text", "")
    if kind == "generate":
        await here.generate(text, order["answer"])
        return time.time()
    if kind == "ask":
        request, answer = await here.serve(text)
        asked.append(request)
        return answer
    if kind == "until":
        await here.gets(text, order["answer"], order["seconds"])
        return time.time()
    if kind == "forget":
        await here.forget(InvalidationScope("all"))
        return time.time()
    return await here.mark(asked[-1], order["verdict"])


async def main(model: str, url: str) -> None:
    loop = asyncio.get_running_loop()
    async with peer(model, url, key="a secret of the test", similarity_threshold=0.6) as here:
        print(json.dumps("ready"), flush=True)
        asked: list[RequestContext] = []
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                result = await obey(here, json.loads(line), asked)
            except AssertionError as error:
                result = f"failed: {error}"
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
