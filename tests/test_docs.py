"""The documentation against the code: complete, with the right signatures, and its generated parts up to date."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from fastapi import FastAPI

from vllm_enhance import hookspecs
from vllm_enhance.engine.patches import PATCHES
from vllm_enhance.metrics import CORE_METRICS, Metric
from vllm_enhance.plugins import load_plugins
from vllm_enhance.reasons import REASONS
from vllm_enhance.server.endpoint import EnhanceEndpoint
from vllm_enhance.settings import resolve

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if path.exists()]
HOOKS = [name for name, function in vars(hookspecs).items() if hasattr(function, "vllm_enhance_spec")]
PACKAGES = {"vllm_enhance_cache", "vllm_enhance_nlp", "vllm_enhance_similarity"}


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = _generator()


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def all_metrics() -> list[Metric]:
    return [metric for group in generator.all_metrics().values() for metric in group]


# --------------------------------------------------------------------------- complete


def test_there_are_hooks() -> None:
    assert {"pre_request", "post_output", "declare_settings", "startup", "shutdown"} <= set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_signature(name: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
    assert f"\n### {name}({arguments})\n" in text_of("hooks.md")


def test_no_hook_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^### (\w+)\(", text_of("hooks.md"), re.MULTILINE)) == set(HOOKS)


def test_every_setting_is_documented() -> None:
    page = text_of("configuration.md")
    for setting in generator.own_plugins().settings_table():
        assert f"`{setting.flag}` | `{setting.variable}`" in page
        assert setting.help in page


def test_every_metric_is_documented() -> None:
    page = text_of("metrics.md")
    metrics = all_metrics()
    assert len(metrics) > len(CORE_METRICS)
    for metric in metrics:
        assert f"`{metric.name}{'_total' if metric.kind == 'counter' else ''}` | {metric.kind}" in page


def test_every_patch_is_documented() -> None:
    page = text_of("patches.md")
    for patch in PATCHES:
        assert all(words in page for words in (patch.target, patch.why, patch.how, patch.goes_away))


def test_every_route_is_documented() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    EnhanceEndpoint(resolve(generator.own_plugins().settings_table(), {}, {})).attach_router(app)
    page = text_of("http.md")
    routes = [
        (method, str(getattr(route, "path", "")))
        for router in (app.router,)
        for route in _flat(router.routes)
        for method in getattr(route, "methods", None) or ()
    ]
    assert ("GET", "/v1/enhance/health") in routes
    for method, path in routes:
        if method != "HEAD" and path.startswith("/v1/enhance"):
            assert f"`{method} {path}`" in page


def _flat(routes: list[object]) -> list[object]:
    """Routes of this router and of routers that newer FastAPI versions keep nested."""
    found: list[object] = []
    for route in routes:
        inner = getattr(route, "original_router", None)
        found += _flat(inner.routes) if inner is not None else [route]
    return found


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    assert f"| `{reason}` | {REASONS[reason]} |" in text_of("http.md")


# --------------------------------------------------------------------------- up to date


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    old = path.read_text(encoding="utf-8")
    assert generator.render(old) == old, "run: make docs"


def test_each_page_of_tables_has_its_generated_part() -> None:
    for page, part in (("configuration", "settings"), ("metrics", "metrics"), ("patches", "patches")):
        assert generator.PART.search(text_of(f"{page}.md")), f"{page}.md lost its part {part}"


def test_the_check_fails_when_a_part_is_out_of_date(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("# A page\n\n<!-- generated: patches -->\nold\n<!-- end -->\n", encoding="utf-8")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import generate_docs
from pathlib import Path
generate_docs.ROOT = Path({str(tmp_path)!r})
codes = []
for mode in ("--check", "--write", "--check"):
    sys.argv = ["generate_docs.py", mode]
    codes.append(generate_docs.main())
print(codes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[1, 0, 0]"


# --------------------------------------------------------------------------- true


def code_blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```(?:{language})\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        (f"{path.name}:{index}", block)
        for path in DOCUMENTS
        for index, block in enumerate(pattern.findall(path.read_text(encoding="utf-8")), 1)
    ]


@pytest.mark.parametrize(("where", "code"), code_blocks("sh|bash"), ids=lambda value: str(value)[:40])
def test_shell_samples_parse(where: str, code: str) -> None:
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {done.stderr}"


@pytest.mark.parametrize(("where", "code"), code_blocks("python"), ids=lambda value: str(value)[:40])
def test_python_samples_parse(where: str, code: str) -> None:
    wrapped = f"class Sample:\n{code}" if code.startswith("    ") else code
    compile(wrapped, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(("where", "code"), code_blocks("yaml|toml"), ids=lambda value: str(value)[:40])
def test_data_samples_parse(where: str, code: str) -> None:
    if where.startswith("configuration"):
        assert isinstance(yaml.safe_load(code), dict)
    else:
        try:
            tomllib.loads(code)
        except tomllib.TOMLDecodeError:
            assert yaml.safe_load(code) is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_flags_and_metrics_in_the_text_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {setting.flag for setting in generator.own_plugins().settings_table()} | {"--enhance", "--enhance-x"}
    example = (ROOT / "examples" / "quota_hook" / "quota_hook" / "hook.py").read_text(encoding="utf-8")
    known |= {f"--enhance-{name}" for name in re.findall(r'name="([a-z-]+)"', example)}
    assert set(re.findall(r"--enhance(?:-[a-z0-9]+)*(?![\w.-]*\.\.\.)\b", text)) <= known
    names = {metric.name for metric in all_metrics()} | PACKAGES
    written = set(re.findall(r"(?<![/\w.])vllm_enhance_[a-z_]+[a-z](?!\w)", text))
    stems = {re.sub(r"_(?:total|bucket|sum|count)$", "", name) for name in written}
    assert stems <= names | {"vllm_enhance"}, stems - names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_settings_page_knows_only_our_own_hook_packages() -> None:
    assert [plugin.name for plugin in generator.own_plugins().loaded] == list(generator.OWN)
    assert load_plugins(("none",)).loaded == []
