"""Every setting, declared once.

One :class:`Setting` gives a flag ``--enhance-cache-ttl``, an environment variable ``ENHANCE_CACHE_TTL``, a key
``enhance-cache-ttl`` in the YAML file of ``vllm serve --config``, and a row of ``docs/configuration.md``. A flag wins
over the environment, the environment over the default. Hook packages declare theirs through ``declare_settings``.

Switches are ``on`` or ``off``, never bare booleans: vLLM's YAML loader loses a ``false`` for a flag that is true by
default (``vllm/utils/argparse_utils.py``, ``load_config_file``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_enhance.errors import SettingError

__all__ = ["CORE_SETTINGS", "Secret", "Setting", "Settings", "SettingsTable", "resolve"]


class Secret(str):
    """A string that does not show itself: vLLM logs every argument that is not the default."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


def _switch(text: str) -> bool:
    try:
        return {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}[text.lower()]
    except KeyError:
        raise ValueError("say on or off") from None


def _count(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise ValueError("a whole number is wanted")
    return int(text)


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a number is wanted") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("a finite number is wanted")
    return value


_UNITS: Mapping[str, Mapping[str, float]] = {
    "size": {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "duration": {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0},
}


def _with_unit(text: str, units: Mapping[str, float], example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match.group(2).lower() not in units:
        raise ValueError(
            f"a number with one of the units {', '.join(u for u in units if u)} is wanted, as in {example}"
        )
    return float(match.group(1)) * units[match.group(2).lower()]


def _size(text: str) -> int:
    return int(_with_unit(text, _UNITS["size"], "512MiB"))


def _duration(text: str) -> float:
    return _with_unit(text, _UNITS["duration"], "30s or 25ms")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _tenant(text: str) -> str:
    # Checked here, so that no way of setting it lets a server start that could not tell its callers apart.
    if text in ("api-key", "none") or re.fullmatch(r"header:[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,128}", text):
        return text
    raise ValueError("api-key, none or header:NAME (the name of an HTTP header) is wanted")


PARSERS: Mapping[str, Callable[[str], Any]] = {
    "switch": _switch,
    "int": _count,
    "float": _ratio,
    "size": _size,
    "duration": _duration,
    "text": str,
    "words": _words,
    "tenant": _tenant,
}
"""How each kind of setting is read from text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that an operator may set.

    Attributes:
        name: words joined by ``-``, such as ``cache-ttl``; without the ``enhance-`` in front.
        kind: a key of :data:`PARSERS`.
        default: as text, just as an operator would write it; ``""`` means unset for ``text`` and ``words``.
        help: one sentence or two, in the operator's words.
        section: heading in the docs.
        choices: allowed values (of the text), if few.
        minimum, maximum: bounds of the parsed value, inclusive.
        secret: never shown in logs, ``/v1/enhance/config`` or ``doctor``.
        check: looks closer at the parsed value; raises ``ValueError`` with what is wrong and what is allowed.
    """

    name: str
    kind: str
    default: str
    help: str
    section: str = "General"
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    check: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name) or self.kind not in PARSERS:
            raise ValueError(f"bad setting declaration: {self.name!r} ({self.kind!r})")
        self.parse(self.default, "default")

    @property
    def flag(self) -> str:
        return f"--enhance-{self.name}"

    @property
    def variable(self) -> str:
        return "ENHANCE_" + self.name.replace("-", "_").upper()

    @property
    def dest(self) -> str:
        return "enhance_" + self.name.replace("-", "_")

    def parse(self, text: str, source: str) -> Any:
        """The value of ``text``.

        Raises:
            SettingError: names ``source`` and says what is allowed.
        """
        shown = "the value" if self.secret else repr(text)
        if self.choices and text not in self.choices:
            raise SettingError(self.name, source, f"{shown} is not one of {', '.join(self.choices)}")
        try:
            value = PARSERS[self.kind](text)
            if self.check is not None:
                self.check(value)
        except ValueError as error:
            raise SettingError(self.name, source, f"{shown} cannot be used: {error}") from None
        if self.minimum is not None and value < self.minimum:
            raise SettingError(self.name, source, f"{shown} is too small, at least {self.minimum:g}")
        if self.maximum is not None and value > self.maximum:
            raise SettingError(self.name, source, f"{shown} is too large, at most {self.maximum:g}")
        return value


CORE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="strict",
        kind="switch",
        default="off",
        help="Refuse to start when this vLLM lacks a seam that the plugin needs, instead of serving plain.",
    ),
    Setting(
        name="hooks",
        kind="words",
        default="",
        help="Which hook packages to load: entry-point names, or module:object for a file of your own; "
        "name=module:object gives it a name, such as that of the package that it replaces. Unset loads "
        "every installed package; none loads none.",
    ),
    Setting(
        name="hook-deadline",
        kind="duration",
        default="100ms",
        minimum=0.001,
        maximum=60,
        help="How long one pre_request hook may take before the request goes on without it.",
    ),
    Setting(
        name="tenant",
        kind="tenant",
        default="api-key",
        help="What separates callers, who never see each other's answers: api-key (the bearer token), none, or "
        "header:NAME for a header that a trusted gateway sets.",
    ),
    Setting(
        name="coalesce",
        kind="switch",
        default="on",
        section="Joined generations",
        help="Let identical requests in flight share one generation.",
    ),
    Setting(
        name="coalesce-scope",
        kind="text",
        default="process",
        choices=("process", "shared"),
        section="Joined generations",
        help="process: requests of one API server process share a generation. shared: those of all processes and hosts "
        "on the same store (SQLite or Redis) do; who comes second waits for the finished answer.",
    ),
    Setting(
        name="cache-sampled",
        kind="switch",
        default="on",
        section="Cache",
        help="Reuse answers of sampled requests (temperature above 0 without a seed) too. off reuses only greedy and "
        "seeded ones.",
    ),
    Setting(
        name="lookup",
        kind="text",
        default="hedge",
        choices=("hedge", "blocking"),
        section="Lookups",
        help="hedge: the engine starts at once and a slow lookup races it to the first token. blocking: the engine "
        "waits for the lookup, up to the deadline.",
    ),
    Setting(
        name="lookup-deadline",
        kind="duration",
        default="25ms",
        minimum=0.001,
        maximum=60,
        section="Lookups",
        help="How long the engine waits for a lookup in blocking mode.",
    ),
    Setting(
        name="replay-chunk",
        kind="text",
        default="auto",
        section="Replay",
        help="Tokens in one streamed chunk of a replayed answer: a number, or auto (1 when a tool or reasoning parser "
        "is configured, since some parsers read token by token; else 64).",
    ),
    Setting(
        name="flush-on-prefix-reset",
        kind="switch",
        default="on",
        section="Invalidation",
        help="Forget all stored answers when the operator resets vLLM's prefix cache.",
    ),
    Setting(
        name="header-wait",
        kind="duration",
        default="2s",
        minimum=0,
        maximum=60,
        section="HTTP",
        help="How long a stream's response headers may be held back so that Cache-Status can be told.",
    ),
    Setting(
        name="explain-entries",
        kind="int",
        default="1000",
        minimum=0,
        maximum=1_000_000,
        section="Insight",
        help="How many recent requests /v1/enhance/requests/{id} remembers in each API server process.",
    ),
    Setting(
        name="ui",
        kind="switch",
        default="on",
        section="Insight",
        help="Serve the status page at /enhance/ui. The page itself holds no data; what it shows needs the API key.",
    ),
    Setting(
        name="log-prompts",
        kind="switch",
        default="off",
        section="Insight",
        help="Let questions appear as text in logs and in /v1/enhance/requests. off shows digests only.",
    ),
)
"""What the core itself reads. Hook packages add theirs."""


class SettingsTable:
    """All declared settings, by name, in order of declaration."""

    def __init__(self, settings: Iterable[Setting] = CORE_SETTINGS) -> None:
        self._by_name: dict[str, Setting] = {}
        for setting in settings:
            self.add(setting)

    def add(self, setting: Setting) -> None:
        """Declare one more.

        Raises:
            ValueError: the name is taken by a different declaration.
        """
        if self._by_name.setdefault(setting.name, setting) != setting:
            raise ValueError(f"setting {setting.name!r} is declared twice")

    def __iter__(self) -> Iterator[Setting]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Setting:
        return self._by_name[name]


class Settings(Mapping[str, Any]):
    """Resolved values, immutable. ``settings["cache-ttl"]`` is the parsed value."""

    def __init__(self, table: SettingsTable, texts: Mapping[str, str], sources: Mapping[str, str]) -> None:
        self.table = table
        self._texts = dict(texts)
        self._values = {s.name: s.parse(texts.get(s.name, s.default), sources.get(s.name, s.flag)) for s in table}
        self.sources = dict(sources)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def shown(self) -> dict[str, Any]:
        """Values for people: secrets masked."""
        return {
            name: "***"
            if self.table[name].secret and self._texts.get(name)
            else self._texts.get(name, self.table[name].default)
            for name in self._values
        }

    def to_json(self) -> str:
        """What differs from the defaults, secrets included: for the environment of child processes."""
        return json.dumps(self._texts, sort_keys=True)

    @classmethod
    def from_json(cls, table: SettingsTable, data: str) -> Settings:
        """The inverse of :meth:`to_json`; names that ``table`` lacks are left out."""
        texts = {name: text for name, text in json.loads(data).items() if name in table}
        return cls(table, texts, dict.fromkeys(texts, "ENHANCE_CONFIG"))

    def replace(self, **changes: str) -> Settings:
        """A copy with other texts; names with ``_`` for ``-``."""
        named = {name.replace("_", "-"): text for name, text in changes.items()}
        return Settings(self.table, {**self._texts, **named}, self.sources)


def resolve(table: SettingsTable, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Flags over environment over defaults.

    Args:
        flags: by :attr:`Setting.dest`; ``None`` where the operator wrote none.
        environ: the process environment, or a test's own mapping.

    Raises:
        SettingError: the first impossible value, naming its flag or variable.
    """
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    for setting in table:
        flag, variable = flags.get(setting.dest), environ.get(setting.variable)
        if flag is not None:
            texts[setting.name], sources[setting.name] = str(flag), setting.flag
        elif variable is not None:
            texts[setting.name], sources[setting.name] = variable, setting.variable
    return Settings(table, texts, sources)
