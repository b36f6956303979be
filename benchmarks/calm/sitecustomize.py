"""Python start-up file for measuring on few cores: vLLM waits asleep where it would spin.

    PYTHONPATH=benchmarks/calm python benchmarks/serving.py ...

vLLM's engine core and its worker wait for each other with ``os.sched_yield`` in a loop, for up to a second after the
last step (``vllm/distributed/device_communicators/shm_broadcast.py``). Where they, the API server and the load
generator share two cores, a process that yields that often is put off when it has work again, for hundreds of
milliseconds at times, plain vLLM as often as ours. Both servers inherit this and wait a little asleep instead.
"""

import os
import time

os.sched_yield = lambda: time.sleep(5e-5)
