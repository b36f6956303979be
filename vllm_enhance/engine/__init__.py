"""The engine integration: with ``vllm_enhance.server``, the only place that imports vLLM.

One request, in the order of the modules: ``client`` takes it in ``add_request``; ``admission`` says whether it may be
cached; ``key`` names it; hooks may answer (``vllm_enhance.dispatch``); ``inflight`` lets it join a running generation;
``tape`` records what the engine produces; ``collector`` hands it to the caller; ``replay`` turns a tape back into
vLLM's own outputs. ``runtime`` holds what all of them share, ``activation``, ``patches``
and ``compat`` put them in place.
"""
