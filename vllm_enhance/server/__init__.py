"""The HTTP side: what clients may ask of the cache, what responses say about it, and the routes for operators.

One request, in the order of the modules: ``middleware`` reads ``Cache-Control``, asks ``tenant`` who it is and opens a
``RequestScope``; ``gate`` holds the response until the engine side has decided, then adds what ``cache_status`` makes
of it, or sends a ``refusal`` instead; ``routes`` are ``/v1/enhance/...``, which meet the engine side through
``control``; ``endpoint`` hangs it all into vLLM's app.
"""
