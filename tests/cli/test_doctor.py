from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vllm_enhance.cli import build
from vllm_enhance.commands import checks


def doctor(*arguments: str, **environ: str) -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
    result = CliRunner().invoke(build([]), ["doctor", "--json", *arguments], env=environ)
    rows = json.loads(result.stdout[result.stdout.index("{\n") :])["checks"]
    return result.exit_code, {(row["area"], row["what"]): row for row in rows}


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing vLLM takes seconds; one test does."""
    monkeypatch.setattr(checks, "engine", list)


def test_a_sound_installation() -> None:
    code, rows = doctor()
    assert code == 0, rows
    assert rows["installation", "vllm-enhance"]["status"] == "ok"
    assert rows["hook", "cache"]["status"] == "ok"
    assert rows["health", "cache"]["status"] == "ok"
    assert "--enhance-embedding-model" in rows["health", "similarity"]["detail"]  # what is off, and why


def test_settings_come_from_flags_yaml_and_environment(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text('model: x\nenhance: true\nenhance-cache-ttl: "2h"\nenhance-coalesce: "off"\n')
    code, rows = doctor(
        "--config", str(config), "--", "--port", "1", "--enhance-cache-ttl=3h", ENHANCE_CACHE_MAX_ENTRIES="7"
    )
    assert code == 0, rows
    shown = {what: row["detail"] for (area, what), row in rows.items() if area == "settings"}
    assert shown["--enhance-cache-ttl"] == "3h"
    assert shown["--enhance-coalesce"] == "off"
    assert shown["--enhance-cache-max-entries"] == "7"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--enhance-cache-ttl=soon", "--enhance-cache-ttl"),
        ("--enhance-no-such=1", "no such setting"),
        ("--enhance-hooks=nope", "nope"),
    ],
)
def test_impossible_settings_are_problems(flag: str, said: str) -> None:
    code, rows = doctor("--", flag)
    assert code == 1
    assert said in rows["settings", "read"]["detail"]


def test_a_variable_that_no_setting_has_is_told() -> None:
    assert doctor(ENHANCE_CASHE_TTL="1h")[1]["settings", "ENHANCE_CASHE_TTL"]["status"] == "warning"


def test_a_filter_that_leaves_the_plugin_out_is_a_problem() -> None:
    code, rows = doctor(VLLM_PLUGINS="other")
    assert code == 1
    assert rows["installation", "VLLM_PLUGINS"]["status"] == "problem"


def test_a_broken_hook_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_hook_of_mine.py").write_text("raise RuntimeError('no luck')")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, rows = doctor("--", "--enhance-hooks=cache,bad_hook_of_mine:Hook")
    assert code == 1
    assert "no luck" in rows["hook", "bad_hook_of_mine:Hook"]["detail"]


def test_a_store_that_does_not_answer_shows() -> None:
    from vllm_enhance.plugins import load_plugins

    names = [s.name for s in load_plugins(["cache"]).settings_table() if s.name.endswith("store")]
    if not names:
        pytest.skip("no shared store is declared")
    _, rows = doctor("--", f"--enhance-{names[0]}=redis://:hunter2@127.0.0.1:1/0")
    found = [row for (area, _), row in rows.items() if area in ("health", "hook") and row["status"] != "ok"]
    assert found, rows
    assert "hunter2" not in json.dumps(list(rows.values()))


def test_directories_are_looked_at_and_not_written(tmp_path: Path) -> None:
    place = tmp_path / "index"
    code, rows = doctor("--", f"--enhance-similarity-dir={place}")
    assert code == 0
    assert rows["settings", "--enhance-similarity-dir"]["status"] in ("ok", "note")
    assert not place.exists()


def test_probes_and_patches_of_the_real_vllm() -> None:
    pytest.importorskip("vllm.version")
    command = [sys.executable, "-c", "from vllm_enhance.cli import main; main()", "doctor", "--no-start", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    rows = json.loads(done.stdout)["checks"]  # nothing of vLLM's log stands between
    assert any(row["area"] == "patch" for row in rows)
    assert any(row["what"] == "probes" and "hold" in row["detail"] for row in rows)


def test_a_running_server_that_is_not_there() -> None:
    code, rows = doctor("--base-url", "http://127.0.0.1:1")
    assert code == 1
    assert "no server answers" in rows["server", "http://127.0.0.1:1"]["detail"]
