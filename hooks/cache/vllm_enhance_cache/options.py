"""What an operator may set of the cache, and the same as plain values for the Python API."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_enhance.settings import Secret, Setting, Settings
from vllm_enhance_cache.stores import check_store_url

__all__ = ["SETTINGS", "CacheOptions"]

TEN_YEARS = 3.2e8

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="cache",
        kind="switch",
        default="on",
        section="Cache",
        help="Answer repeated requests from stored answers.",
    ),
    Setting(
        name="cache-ttl",
        kind="duration",
        default="3600s",
        minimum=1,
        maximum=TEN_YEARS,
        section="Cache",
        help="How long an answer is kept after it was generated.",
    ),
    Setting(
        name="cache-max-bytes",
        kind="size",
        default="512MiB",
        minimum=1,
        section="Cache",
        help="Memory for stored answers in each API server process; the least recently used go first.",
    ),
    Setting(
        name="cache-max-entries",
        kind="int",
        default="100000",
        minimum=1,
        section="Cache",
        help="How many answers each API server process keeps in memory.",
    ),
    Setting(
        name="cache-max-entry-bytes",
        kind="size",
        default="8MiB",
        minimum=1024,
        section="Cache",
        help="Larger answers are not kept, in memory or in the store.",
    ),
    Setting(
        name="cache-compression",
        kind="text",
        default="zstd",
        choices=("zstd", "none"),
        section="Shared store",
        help="How answers above 1 KiB are packed in the shared store; zlib where the zstandard package is missing.",
    ),
    Setting(
        name="store",
        kind="text",
        default="memory://",
        secret=True,
        check=check_store_url,
        section="Shared store",
        help="Where answers are shared and survive a restart: memory:// (nowhere), sqlite:///PATH (the API server "
        "processes of one host), redis://, rediss://, unix://, redis+cluster:// or redis+sentinel:// (many hosts).",
    ),
    Setting(
        name="store-key",
        kind="text",
        default="",
        secret=True,
        section="Shared store",
        help="A secret that all servers on one store share. With it, values that anybody else wrote are never used. "
        "Prefer the environment variable to the flag: other users of the machine can read a process' arguments.",
    ),
    Setting(
        name="store-deadline",
        kind="duration",
        default="25ms",
        minimum=0.001,
        maximum=1,
        section="Shared store",
        help="How long one lookup in the shared store may take.",
    ),
    Setting(
        name="store-max-bytes",
        kind="size",
        default="4GiB",
        minimum=2**20,
        section="Shared store",
        help="Size of a SQLite store; the least recently used answers go first. A Redis has its own maxmemory.",
    ),
    Setting(
        name="store-prefix",
        kind="text",
        default="vllm-enhance",
        section="Shared store",
        help="In front of every name in a Redis. Servers share answers only under the same prefix.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """The cache's settings as values, defaults as in :data:`SETTINGS`.

    Attributes:
        enabled: ``--enhance-cache``.
        ttl: seconds.
        max_bytes, max_entries, max_entry_bytes: of the memory tier.
        compression: ``zstd`` or ``none``.
        store: URL.
        store_key: for signing; empty for a checksum only.
        store_deadline: seconds.
        store_max_bytes: of a SQLite file.
        store_prefix: of names in a Redis.
    """

    enabled: bool = True
    ttl: float = 3600.0
    max_bytes: int = 512 * 2**20
    max_entries: int = 100_000
    max_entry_bytes: int = 8 * 2**20
    compression: str = "zstd"
    store: str = Secret("memory://")
    store_key: str = Secret("")
    store_deadline: float = 0.025
    store_max_bytes: int = 4 * 2**30
    store_prefix: str = "vllm-enhance"

    @classmethod
    def from_settings(cls, settings: Settings) -> CacheOptions:
        return cls(
            enabled=settings["cache"],
            ttl=settings["cache-ttl"],
            max_bytes=settings["cache-max-bytes"],
            max_entries=settings["cache-max-entries"],
            max_entry_bytes=settings["cache-max-entry-bytes"],
            compression=settings["cache-compression"],
            store=Secret(settings["store"]),
            store_key=Secret(settings["store-key"]),
            store_deadline=settings["store-deadline"],
            store_max_bytes=settings["store-max-bytes"],
            store_prefix=settings["store-prefix"],
        )
