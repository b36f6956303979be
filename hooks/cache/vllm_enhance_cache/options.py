"""What an operator may set of the cache, and the same as plain values for the Python API."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_enhance.settings import Setting, Settings

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
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """The cache's settings as values, defaults as in :data:`SETTINGS`.

    Attributes:
        enabled: ``--enhance-cache``.
        ttl: seconds.
        max_bytes, max_entries, max_entry_bytes: of the memory tier.
    """

    enabled: bool = True
    ttl: float = 3600.0
    max_bytes: int = 512 * 2**20
    max_entries: int = 100_000
    max_entry_bytes: int = 8 * 2**20

    @classmethod
    def from_settings(cls, settings: Settings) -> CacheOptions:
        return cls(
            enabled=settings["cache"],
            ttl=settings["cache-ttl"],
            max_bytes=settings["cache-max-bytes"],
            max_entries=settings["cache-max-entries"],
            max_entry_bytes=settings["cache-max-entry-bytes"],
        )
