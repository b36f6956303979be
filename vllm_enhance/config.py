"""Configuration objects of the Python API.

They are a typed way to write the one settings table (:mod:`vllm_enhance.settings`): a field that was set becomes the
text of its setting; one that was not leaves the setting to ``ENHANCE_*`` or its default. Engine arguments are vLLM's
own ``AsyncEngineArgs``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from vllm_enhance.errors import InvalidConfigError
from vllm_enhance.settings import Secret

__all__ = [
    "CacheConfig",
    "CacheType",
    "FeaturesConfig",
    "HandlerConfig",
    "NLPConfig",
    "SimilarityConfig",
    "VLLMConfig",
    "chosen_settings",
]


def _switch(value: Any) -> str:
    return "on" if value else "off"


def _seconds(value: Any) -> str:
    return f"{value:.6f}s"


class Config(BaseModel):
    """Refuses unknown fields, checks assignments too, and raises :class:`InvalidConfigError`."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    SETTINGS: ClassVar[Mapping[str, tuple[str, Callable[[Any], str]]]] = {}
    """Field -> the setting that it writes, and how its value is written."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise _explained(error) from None

    def chosen(self) -> dict[str, tuple[str, str]]:
        """Settings that were set here, and where."""
        title = type(self).__name__
        return {
            setting: (write(getattr(self, field)), f"{title}.{field}")
            for field, (setting, write) in self.SETTINGS.items()
            if field in self.model_fields_set and getattr(self, field) is not None
        }


def _explained(error: ValidationError) -> InvalidConfigError:
    problems = []
    for each in error.errors(include_url=False, include_input=False):
        place = ".".join([error.title, *map(str, each["loc"])])
        unknown = each["type"] == "extra_forbidden"
        problems.append(f"{place}: {'there is no such field' if unknown else each['msg']}")
    return InvalidConfigError("; ".join(problems))


# --------------------------------------------------------------------------- the engine


class VLLMConfig(Config):
    """The engine. ``engine_args`` is an ``AsyncEngineArgs`` of vLLM; a mapping of its fields will do."""

    engine_args: Any = None

    @field_validator("engine_args", mode="before")
    @classmethod
    def _vllms_own(cls, value: Any) -> Any:
        from vllm_enhance.engine.arguments import as_engine_args

        return as_engine_args(value)

    def model_post_init(self, context: Any) -> None:
        if self.engine_args is None:
            self.engine_args = {}


# --------------------------------------------------------------------------- cache


class CacheType(StrEnum):
    """Where answers are kept besides this process' memory, which always comes first."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    REDIS = "redis"


class CacheConfig(Config):
    """Exact reuse.

    Attributes:
        cache_type: ``memory`` alone, or a store shared with other processes (``sqlite``) or hosts (``redis``).
        redis_host, redis_port, redis_db, redis_username, redis_password, redis_ssl: for ``redis``.
        store_url: instead of these, any URL of ``--enhance-store``.
        sqlite_path: file, for ``sqlite``.
        memory_cache_size: answers kept in memory.
        memory_cache_bytes: memory for them.
        ttl: seconds that an answer is kept.
        enable_compression: of stored answers.
    """

    cache_type: CacheType = CacheType.MEMORY
    redis_host: str = "localhost"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_username: str = ""
    redis_password: SecretStr | None = None
    redis_ssl: bool = False
    store_url: SecretStr | None = None
    sqlite_path: str | None = None
    memory_cache_size: int = Field(default=100_000, ge=1)
    memory_cache_bytes: int = Field(default=512 * 2**20, ge=1)
    ttl: float = Field(default=3600, ge=1)
    enable_compression: bool = True

    SETTINGS: ClassVar[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
        "memory_cache_size": ("cache-max-entries", str),
        "memory_cache_bytes": ("cache-max-bytes", str),
        "ttl": ("cache-ttl", _seconds),
    }

    @model_validator(mode="after")
    def _has_a_place(self) -> CacheConfig:
        if self.cache_type is CacheType.SQLITE and not self.sqlite_path and self.store_url is None:
            raise ValueError("cache_type sqlite needs sqlite_path, the file that the processes share")
        return self

    @property
    def url(self) -> str | None:
        """The store's URL as ``--enhance-store`` takes it, password included; ``None`` for memory alone."""
        if self.store_url is not None:
            return Secret(self.store_url.get_secret_value())
        if self.cache_type is CacheType.MEMORY:
            return None
        if self.cache_type is CacheType.SQLITE:
            return f"sqlite://{Path(str(self.sqlite_path)).absolute()}"
        password = self.redis_password.get_secret_value() if self.redis_password is not None else ""
        user = quote(self.redis_username, safe="")
        secret = f"{user}:{quote(password, safe='')}@" if password or user else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        scheme = "rediss" if self.redis_ssl else "redis"
        return Secret(f"{scheme}://{secret}{host}:{self.redis_port}/{self.redis_db}")

    def chosen(self) -> dict[str, tuple[str, str]]:
        found, url = super().chosen(), self.url
        if url is not None:
            found["store"] = (url, "CacheConfig.cache_type")
            if "enable_compression" in self.model_fields_set:
                found["cache-compression"] = (
                    "zstd" if self.enable_compression else "none",
                    "CacheConfig.enable_compression",
                )
        return found


# --------------------------------------------------------------------------- similarity


def _shared_memory() -> str:
    return f"sqlite:///dev/shm/vllm-enhance-{os.getuid()}/similar-results.db"


class SimilarityConfig(Config):
    """Reuse of answers to the same question in other words.

    Attributes:
        enable_vector_search: whether similar questions are looked for; needs an embedding model.
        embedding_model: a sentence-transformers model: directory, or hub name (which may be downloaded).
        similarity_threshold: least cosine similarity, -1 to 1; setting it chooses the threshold policy.
        max_similar_results: how many neighbours ``metadata["similar"]`` lists.
        vector_dimension: of the embedding; ``None`` asks the embedder, another number than its own is refused.
        results_store: where similar results are kept for other processes, a store's URL; ``None`` keeps them nowhere.
        results_ttl: seconds that they are kept.
    """

    enable_vector_search: bool = True
    embedding_model: str | None = None
    similarity_threshold: float = Field(default=0.95, ge=-1, le=1)
    max_similar_results: int = Field(default=5, ge=1, le=100)
    vector_dimension: int | None = Field(default=None, ge=1)
    results_store: str | None = Field(default_factory=_shared_memory)
    results_ttl: float = Field(default=600, ge=1)

    SETTINGS: ClassVar[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
        "enable_vector_search": ("similarity-mode", _switch),
        "embedding_model": ("embedding-model", str),
        "similarity_threshold": ("similarity-threshold", repr),
        "max_similar_results": ("similar-results-limit", str),
        "results_ttl": ("similar-results-ttl", _seconds),
    }

    def chosen(self) -> dict[str, tuple[str, str]]:
        found = super().chosen()
        if "similarity-threshold" in found:  # a fixed threshold is meant, not one that is learned
            found["similarity-policy"] = ("threshold", "SimilarityConfig.similarity_threshold")
        if self.enable_vector_search and self.results_store:
            found["similar-results"] = (Secret(self.results_store), "SimilarityConfig.results_store")
        return found


# --------------------------------------------------------------------------- the handler


class FeaturesConfig(Config):
    """What is switched on. A field that is not set leaves its setting alone."""

    enable_caching: bool = True
    enable_similarity_search: bool = False
    enable_nlp_enhancement: bool = False
    enable_detailed_logging: bool = False

    SETTINGS: ClassVar[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
        "enable_caching": ("cache", _switch),
        "enable_similarity_search": ("similarity-mode", _switch),
        "enable_nlp_enhancement": ("nlp", _switch),
    }


class NLPConfig(Config):
    """Language analysis: how many questions at once, in which language, for how long (seconds)."""

    max_concurrent_tasks: int = Field(default=50, ge=1, le=10_000)
    language: str = Field(default="auto", pattern="^(auto|en|zh)$")
    deadline: float = Field(default=1.0, ge=0.001, le=60)

    SETTINGS: ClassVar[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
        "max_concurrent_tasks": ("nlp-max-concurrent-tasks", str),
        "language": ("nlp-language", str),
        "deadline": ("nlp-deadline", _seconds),
    }


FLAT = {
    "cache_enabled": "enable_caching",
    "similarity_enabled": "enable_similarity_search",
    "nlp_enabled": "enable_nlp_enhancement",
    "detailed_logging": "enable_detailed_logging",
}


class HandlerConfig(Config):
    """The system around the engine.

    ``HandlerConfig(model_name=…, cache_enabled=True, nlp_enabled=True)`` is short for the same under ``features``.

    Attributes:
        model_name: the model, where ``VLLMConfig`` names none.
        max_active_requests: requests that the handler has under way at once; more wait.
        max_waiting_requests: callers that may wait for a place; one more is refused.
        drain_timeout: seconds that ``stop`` lets running requests finish.
        result_ttl: seconds that the result of ``add_request`` is kept.
        max_results: how many such results are kept.
        health_timeout: seconds for the engine to answer a health check.
        settings: any other setting of ``docs/configuration.md`` by name, as text: ``{"coalesce": "off"}``.
    """

    model_name: str | None = None
    features: FeaturesConfig = Field(default_factory=FeaturesConfig)
    nlp: NLPConfig = Field(default_factory=NLPConfig)
    max_active_requests: int = Field(default=256, ge=1)
    max_waiting_requests: int = Field(default=10_000, ge=0)
    drain_timeout: float = Field(default=30.0, ge=0)
    result_ttl: float = Field(default=600.0, gt=0)
    max_results: int = Field(default=10_000, ge=1)
    health_timeout: float = Field(default=5.0, gt=0)
    settings: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, values: Any) -> Any:
        """Move the short names under ``features``."""
        if not isinstance(values, Mapping) or not FLAT.keys() & values.keys():
            return values
        features = values.get("features", {})
        if isinstance(features, FeaturesConfig):
            features = features.model_dump(include=features.model_fields_set)
        moved = {FLAT[name]: value for name, value in values.items() if name in FLAT}
        twice = sorted(name for name, long in FLAT.items() if name in values and long in features)
        if twice:
            raise ValueError(f"{', '.join(twice)}: said twice, here and under features")
        rest = {name: value for name, value in values.items() if name not in FLAT}
        return {**rest, "features": {**features, **moved}}

    @property
    def cache_enabled(self) -> bool:
        return self.features.enable_caching

    @property
    def similarity_enabled(self) -> bool:
        return self.features.enable_similarity_search

    @property
    def nlp_enabled(self) -> bool:
        return self.features.enable_nlp_enhancement

    def chosen(self) -> dict[str, tuple[str, str]]:
        named = {name: (text, f"HandlerConfig.settings[{name!r}]") for name, text in self.settings.items()}
        return {**self.features.chosen(), **self.nlp.chosen(), **named}


def chosen_settings(configs: Iterable[Config | None]) -> dict[str, tuple[str, str]]:
    """What several configuration objects say together.

    A switch that one of them turns off is off; for everything else the later one wins.
    """
    found: dict[str, tuple[str, str]] = {}
    for config in configs:
        for name, choice in ({} if config is None else config.chosen()).items():
            if found.get(name, ("", ""))[0] != "off":
                found[name] = choice
    return found
