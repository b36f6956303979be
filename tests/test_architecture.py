"""The rules of the house, held against the code: who imports whom, what an import may do, what no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vllm_enhance.plugins import load_plugins

ROOT = Path(__file__).resolve().parent.parent
HOOKS = ("cache", "nlp", "similarity")

LAYERS = (
    {"errors", "types", "directives", "records", "scope", "reasons", "throttle", "explain", "prometheus"},
    {"hookspecs", "settings", "metrics", "context", "stores", "sharing", "outputs"},
    {"plugins", "dispatch", "assembly"},
    {"engine", "server", "config"},
)
"""Each may import its own layer and those before it. What is in none (the Python API, the command) is on top."""

APART = {"__init__", "testing"}
"""The package's front door, which loads lazily, and the public test support, which nothing else may import."""

PURE = (
    "vllm_enhance/directives.py",
    "vllm_enhance/engine/key.py",
    "vllm_enhance/reasons.py",
    "vllm_enhance/records.py",
    "vllm_enhance/server/cache_status.py",
    "vllm_enhance/types.py",
    "hooks/nlp/vllm_enhance_nlp/analysis.py",
    "hooks/nlp/vllm_enhance_nlp/clauses.py",
    "hooks/nlp/vllm_enhance_nlp/signals.py",
    "hooks/similarity/vllm_enhance_similarity/guards/",
    "hooks/similarity/vllm_enhance_similarity/policies/",
)
WORLDLY = {"os", "time", "datetime", "random", "secrets", "socket", "subprocess", "pathlib", "logging"}
"""What a pure module does not touch: clock, chance, environment, files, network."""

HEAVY = ("vllm", "torch", "transformers", "numpy", "nltk", "jieba", "redis", "hnswlib", "sentence_transformers")


@dataclass(frozen=True)
class Import:
    """One import statement's target. ``eager`` ones run when the module is imported."""

    module: str
    line: int
    typing_only: bool
    eager: bool


@dataclass(frozen=True)
class Module:
    path: Path

    @property
    def name(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[2:] if parts[0] == "hooks" else parts).removesuffix(".__init__")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), str(self.path))

    def imports(self) -> Iterator[Import]:
        yield from self._walk(self.tree.body, typing_only=False, eager=True)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return str(node.module)
        package = self.name.split(".") if self.path.stem == "__init__" else self.name.split(".")[:-1]
        return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])

    def _walk(self, body: list[ast.stmt], *, typing_only: bool, eager: bool) -> Iterator[Import]:
        for node in body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno, typing_only, eager)
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(node)
                for alias in node.names:  # "from package import module" imports the module
                    deep = source in ("vllm_enhance", "vllm_enhance.engine", "vllm_enhance.server")
                    module = f"{source}.{alias.name}" if deep else source
                    yield Import(module, node.lineno, typing_only, eager)
            else:
                guard = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
                inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                    children = [child for child in getattr(node, field, []) if isinstance(child, ast.AST)]
                    blocks = [
                        child.body if isinstance(child, ast.ExceptHandler | ast.match_case) else [child]
                        for child in children
                    ]
                    for block in blocks:
                        yield from self._walk(
                            block,
                            typing_only=typing_only or (guard and field == "body"),
                            eager=eager and not inner,
                        )


def modules(*roots: str) -> list[Module]:
    found = [path for root in roots for path in sorted((ROOT / root).rglob("*.py"))]
    assert found, roots
    return [Module(path) for path in found]


CORE = modules("vllm_enhance")
HOOK_MODULES = modules("hooks")
ALL = [*CORE, *HOOK_MODULES]


def label(module: Module) -> str:
    return str(module.path.relative_to(ROOT))


def layer_of(name: str) -> int | None:
    """Which layer ``vllm_enhance.<part>...`` belongs to; ``None`` for what stands apart."""
    part = name.split(".")[1] if "." in name else "__init__"
    if part in APART or part == "__version__":
        return None
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    return len(LAYERS)


@pytest.mark.parametrize("module", CORE, ids=label)
def test_the_core_imports_one_way(module: Module) -> None:
    own = layer_of(module.name)
    for found in module.imports():
        if not found.module.startswith("vllm_enhance.") or found.typing_only:
            continue
        assert not found.module.startswith("vllm_enhance.testing") or module.name.startswith("vllm_enhance.testing")
        theirs = layer_of(found.module)
        if own is not None and theirs is not None:
            assert theirs <= own, f"{label(module)}:{found.line} imports {found.module}, which is above it"


@pytest.mark.parametrize("module", ALL, ids=label)
def test_only_engine_and_server_import_vllm(module: Module) -> None:
    allowed = module.name.startswith(("vllm_enhance.engine", "vllm_enhance.server"))
    for found in module.imports():
        if found.module.split(".")[0] == "vllm":
            assert allowed, f"{label(module)}:{found.line} imports {found.module}"


@pytest.mark.parametrize("module", HOOK_MODULES, ids=label)
def test_hook_packages_know_only_the_public_core(module: Module) -> None:
    own = module.name.split(".")[0]
    inner = ("vllm_enhance.engine", "vllm_enhance.server", "vllm_enhance.dispatch", "vllm_enhance.testing")
    for found in module.imports():
        top = found.module.split(".")[0]
        assert not top.startswith("vllm_enhance_") or top == own, f"{label(module)}:{found.line}: another hook package"
        if found.module.startswith(inner):
            # A suite for a package's own interface may stand on the public test support.
            assert "testing" in module.name, f"{label(module)}:{found.line} imports {found.module}"
            assert found.module.startswith("vllm_enhance.testing")


@pytest.mark.parametrize("module", CORE, ids=label)
def test_the_core_names_no_hook_package(module: Module) -> None:
    for found in module.imports():
        assert not found.module.startswith("vllm_enhance_"), f"{label(module)}:{found.line}: {found.module}"


@pytest.mark.parametrize("module", ALL, ids=label)
def test_nothing_pickles(module: Module) -> None:
    for found in module.imports():
        assert found.module.split(".")[0] not in ("pickle", "cloudpickle", "dill", "marshal", "shelve"), found
    assert not re.search(r"allow_pickle\s*=\s*True", module.path.read_text(encoding="utf-8"))


def pure_modules() -> list[Module]:
    found = [module for module in ALL if str(module.path.relative_to(ROOT)).startswith(PURE)]
    assert len(found) >= len(PURE)
    return found


@pytest.mark.parametrize("module", pure_modules(), ids=label)
def test_pure_modules_touch_nothing(module: Module) -> None:
    for found in module.imports():
        worldly = not found.typing_only and found.module.split(".")[0] in WORLDLY
        assert not worldly, f"{label(module)}:{found.line} imports {found.module}"


def _sort_key(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@pytest.mark.parametrize("module", ALL, ids=label)
def test_public_names_are_sorted_and_there(module: Module) -> None:
    """``__all__`` in the order of ruff's RUF022: constants, classes, functions."""
    defined: set[str] = set()
    public: list[str] | None = None
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            defined |= named
            if "__all__" in named and isinstance(node.value, ast.List):
                public = ast.literal_eval(node.value)
    if public is not None:
        assert public == sorted(public, key=_sort_key)
        lazy = any(isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in module.tree.body)
        assert lazy or set(public) <= defined, set(public) - defined


def test_the_front_door_opens() -> None:
    import vllm_enhance

    assert vllm_enhance.__all__ == sorted(vllm_enhance.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vllm_enhance.nonsense  # noqa: B018
    tree = ast.parse(Path(str(vllm_enhance.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {name: f"vllm_enhance.{module}" for name, module in vllm_enhance._EXPORTS.items()}


# --------------------------------------------------------------------------- what an import does


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def light_modules() -> list[str]:
    """Modules that import nothing heavy on their own account, nor through others of ours."""
    heavy = {
        module.name
        for module in ALL
        if module.name.startswith(("vllm_enhance.engine", "vllm_enhance.server", "vllm_enhance.testing"))
        or any(i.eager and not i.typing_only and i.module.split(".")[0] in HEAVY for i in module.imports())
    }
    while True:
        more = {
            module.name
            for module in ALL
            if module.name not in heavy
            and any(i.eager and not i.typing_only and i.module in heavy for i in module.imports())
        }
        if not more:
            return sorted(module.name for module in ALL if module.name not in heavy and "__main__" not in module.name)
        heavy |= more


def test_importing_the_package_is_cheap() -> None:
    code = f"""
import sys
import vllm_enhance, vllm_enhance.plugin, vllm_enhance.hookspecs
for name, module in vllm_enhance._EXPORTS.items():
    if not module.startswith("engine"):
        getattr(vllm_enhance, name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert in_fresh_python(code) == "[]"


def test_loading_the_hook_packages_is_cheap() -> None:
    """Their plugin modules are imported by every process that builds a parser."""
    code = f"""
import sys, threading
from vllm_enhance.plugins import load_plugins
plugins = load_plugins({HOOKS!r})
assert not plugins.broken, plugins.broken
len(plugins.settings_table())
print([name for name in {HEAVY!r} if name in sys.modules], threading.active_count())
"""
    assert in_fresh_python(code) == "[] 1"


def test_imports_start_no_thread_and_open_no_file() -> None:
    code = f"""
import importlib, os, sys, threading
before = len(os.listdir("/proc/self/fd"))
for name in {light_modules()!r}:
    importlib.import_module(name)
print([name for name in {HEAVY!r} if name in sys.modules], threading.active_count())
assert len(os.listdir("/proc/self/fd")) == before
"""
    assert in_fresh_python(code) == "[] 1"


def test_importing_what_touches_vllm_starts_no_thread_of_ours_and_patches_nothing() -> None:
    names = [m.name for m in CORE if m.name.startswith(("vllm_enhance.engine", "vllm_enhance.server"))]
    code = f"""
import importlib, threading
import vllm.v1.engine.async_llm, vllm.entrypoints.openai.api_server
before = set(threading.enumerate())
for name in {names!r}:
    importlib.import_module(name)
from vllm_enhance import *
print([thread.name for thread in threading.enumerate() if thread not in before], hookimpl.__name__)
from vllm.v1.engine.async_llm import AsyncLLM
assert not AsyncLLM.add_request.__module__.startswith("vllm_enhance")
assert not getattr(vars(AsyncLLM).get("__new__"), "__module__", "").startswith("vllm_enhance")
"""
    assert "[] hookimpl" in in_fresh_python(code)


# --------------------------------------------------------------------------- what no file may contain


def repository_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


FORBIDDEN = {
    "machine paths": r"(?<![\w.])/(?:work|root)/",
    "hosts of package registries": r"pypi" + r"\.org|pythonhosted|download\.pytorch|registry\.npmjs|deb\.debian",
    "unfinished business": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    "variables in vLLM's name": r"\bVLLM_" + r"ENHANCE",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_contains(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what].encode())
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in repository_files()
        if path != Path(__file__).resolve() and path.suffix not in (".jsonl", ".png")
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_settings_are_ours() -> None:
    names: list[str] = []
    for setting in load_plugins(HOOKS).settings_table():
        assert setting.variable.startswith("ENHANCE_")
        assert setting.flag.startswith("--enhance-")
        names.append(setting.name)
    assert len(names) == len(set(names))
