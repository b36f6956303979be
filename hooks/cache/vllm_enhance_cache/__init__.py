"""The cache hook: answers that were given before, from this process' memory or from a shared store.

``plugin`` is what the engine calls; ``lru`` the memory tier; ``shared`` the store tier with its deadline and breaker;
``stores`` the backends; ``envelope`` what a stored value looks like; ``transfer`` export, import and warm-up.
"""

from __future__ import annotations
