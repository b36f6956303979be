"""Every error this package raises on purpose.

::

    EnhanceError
    ├── ConfigurationError          what the operator wrote cannot be used
    │   ├── SettingError            one setting; carries its name and source
    │   ├── InvalidConfigError      a configuration object of the Python API; also a ValueError
    │   └── UnsupportedEngineError  this vLLM lacks a seam that the plugin needs
    ├── DirectiveError              what a client wrote in a cache directive (HTTP 400)
    ├── RequestRejected             a hook or directive refuses the request; carries the HTTP status
    ├── RecordError                 stored bytes are not a record of this version
    ├── StoreError                  a store failed; carries its name
    │   └── StoreTimeout
    ├── EmbeddingError              no embedding for this text; carries the reason
    ├── HookError                   a hook package cannot be loaded or broke its contract
    ├── GenerationError             one request could not be finished; the engine goes on
    ├── OverloadedError             more callers wait than the handler allows
    ├── UnknownRequestError         no such request id, or its result has been forgotten; also a LookupError
    └── LifecycleError              the Python API was used out of order
        ├── NotStartedError
        ├── AlreadyStartedError
        ├── AlreadyClosedError
        └── EngineStoppedError
"""

from __future__ import annotations

__all__ = [
    "AlreadyClosedError",
    "AlreadyStartedError",
    "ConfigurationError",
    "DirectiveError",
    "EmbeddingError",
    "EngineStoppedError",
    "EnhanceError",
    "GenerationError",
    "HookError",
    "InvalidConfigError",
    "LifecycleError",
    "NotStartedError",
    "OverloadedError",
    "RecordError",
    "RequestRejected",
    "SettingError",
    "StoreError",
    "StoreTimeout",
    "UnknownRequestError",
    "UnsupportedEngineError",
]


class EnhanceError(Exception):
    """Root of the tree: ``except EnhanceError`` catches all of ours and nothing else."""


class ConfigurationError(EnhanceError):
    """What the operator wrote cannot be used; the message says what to write instead."""


class SettingError(ConfigurationError):
    """One setting has an impossible value.

    Args:
        name: the setting's name, such as ``cache-ttl``.
        source: where the value came from, such as ``--enhance-cache-ttl``.
        problem: what is wrong and what is allowed.
    """

    def __init__(self, name: str, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}")
        self.name = name
        self.source = source
        self.problem = problem


class InvalidConfigError(ConfigurationError, ValueError):
    """A field of ``CacheConfig``, ``HandlerConfig`` and the like is unknown, or its value impossible."""


class UnsupportedEngineError(ConfigurationError):
    """This vLLM lacks a seam that the plugin needs; carries the failed probes."""

    def __init__(self, message: str, probes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.probes = probes


class DirectiveError(EnhanceError):
    """A client's cache directive cannot be understood. Shown to the client as HTTP 400."""


class RequestRejected(EnhanceError):
    """The request is refused before it costs the engine anything.

    Args:
        status: HTTP status, 400 to 599.
        message: shown to the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RecordError(EnhanceError):
    """Stored bytes are not a record of this version: damaged, older or newer. Always treated as a miss."""


class StoreError(EnhanceError):
    """A store failed. The request goes on without it."""

    def __init__(self, store: str, message: str) -> None:
        super().__init__(f"{store}: {message}")
        self.store = store


class StoreTimeout(StoreError):
    """A store did not answer within its deadline."""


class EmbeddingError(EnhanceError):
    """A text has no embedding; ``reason`` is a short label such as ``too_long`` or ``embedder_unavailable``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class HookError(EnhanceError):
    """A hook package cannot be loaded, or returned something its contract does not allow."""


class GenerationError(EnhanceError):
    """The engine could not finish this one request; ``__cause__`` is what vLLM raised."""


class OverloadedError(EnhanceError):
    """More callers wait for a place than ``max_waiting_requests`` allows; try again later."""


class UnknownRequestError(EnhanceError, LookupError):
    """No such request id, or its result was kept no longer."""


class LifecycleError(EnhanceError):
    """The Python API was used out of order."""


class NotStartedError(LifecycleError):
    """Used before ``start()``."""


class AlreadyStartedError(LifecycleError):
    """``start()`` called a second time."""


class AlreadyClosedError(LifecycleError):
    """Used after ``stop()`` or ``cleanup()``."""


class EngineStoppedError(LifecycleError):
    """The engine behind the handler has died; build a new system."""
