"""The whole command on a made-up stream: the numbers can be counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner
from vllm_enhance_similarity.tune.outcome import Advice
from vllm_enhance_similarity.tune.report import render_yaml

from vllm_enhance.cli import GROUP, build
from vllm_enhance.plugins import load_plugins
from vllm_enhance.settings import resolve

HOSTILE = "<script>alert('x')</script> & what else"
DIMENSION = 64
WORDINGS = (
    "please tell me about {}",
    "tell me about {} please",
    "tell me please about {}",
    "Please tell me about {}?",
    "please, tell me about {}",
)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def stream(tmp_path: Path) -> tuple[Path, Path]:
    """300 requests about 60 topics, 5 wordings each 0.93 alike; every sixth wording is of another topic's label."""
    rng, rows, vectors = np.random.default_rng(0), [], []
    topics = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0][:60]
    for number in range(300):
        topic, wording = number % 60, number // 60
        noise = rng.standard_normal(DIMENSION)
        noise -= topics.T @ (topics @ noise)
        noise /= np.linalg.norm(noise)
        vectors.append(topics[topic] * np.sqrt(0.97) + noise * np.sqrt(0.03))
        label = f"topic {topic}" if number < 60 or topic % 6 else f"other {number}"
        text = HOSTILE if number == 0 else WORDINGS[wording].format(_word(topic))
        rows.append({"text": text, "label": label})
    log, file = tmp_path / "log.jsonl", tmp_path / "vectors.npy"
    log.write_text("\n".join(json.dumps(row) for row in rows))
    np.save(file, np.array(vectors, dtype=np.float32))
    return log, file


def _word(number: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in f"{number:03d}") + "um"


def application() -> typer.Typer:
    """The command line with the entry points that this source tree declares, whatever is installed."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    return build([EntryPoint(name, value, GROUP) for name, value in declared.items()])


def run(*arguments: object, text: str = "") -> str:
    result = CliRunner().invoke(application(), ["tune", *map(str, arguments)], input=text)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_counts_hits_and_errors_and_writes_report_and_settings(stream: tuple[Path, Path], tmp_path: Path) -> None:
    log, vectors = stream
    report, config = tmp_path / "report.html", tmp_path / "tuned.yaml"
    shared = [
        "--embeddings",
        vectors,
        "--out",
        report,
        "--config",
        config,
        "--labels",
        tmp_path / "none",
        "--workers",
        1,
    ]
    told = json.loads(run(log, *shared, "--json", "--embedding-model", "some/model"))
    assert told["requests"] == told["texts"] == 300
    by_value = {row["value"]: row for row in told["settings"] if row["policy"] == "threshold"}
    loose, strict = by_value[0.94], by_value[0.99]
    # 240 later wordings find their topic's first, but for one that the hostile text hides; 10 topics of 60 mislead,
    # 4 times each, and once less where the first was the hostile text
    assert loose["hit_rate"][0] * 300 == pytest.approx(239)
    assert loose["error"][0] * 300 == pytest.approx(39)
    assert loose["error"][1] <= loose["error"][0] <= loose["error"][2]
    assert loose["judged"] == 239
    assert 0.0 < strict["hit_rate"][0] < 0.5 * loose["hit_rate"][0]
    assert {row["value"] for row in told["settings"] if row["policy"] == "bounded"} >= {0.01}

    page = report.read_text()
    assert page.count("<svg") >= 4
    assert "polygon" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")

    settings = yaml.safe_load(config.read_text())
    assert settings.pop("enhance") is True
    assert all(isinstance(value, str) for value in settings.values())  # a bare `on` would be a boolean
    table = load_plugins(["similarity"]).settings_table()
    flags = {name.replace("-", "_"): value for name, value in settings.items()}
    assert flags.keys() <= {setting.dest for setting in table}
    assert resolve(table, flags, {})["embedding-model"] == "some/model"


def test_questions_can_be_left_out_of_the_report(stream: tuple[Path, Path], tmp_path: Path) -> None:
    log, vectors = stream
    report = tmp_path / "report.html"
    run(log, "--embeddings", vectors, "--out", report, "--labels", tmp_path / "none", "--no-show-questions")
    assert "tell me" not in report.read_text()


def test_without_labels_shadow_mode_is_advised_and_labelling_sharpens(
    stream: tuple[Path, Path], tmp_path: Path
) -> None:
    log, vectors = stream
    bare = tmp_path / "bare.jsonl"
    bare.write_text("\n".join(json.dumps({"text": json.loads(line)["text"]}) for line in log.read_text().splitlines()))
    labels = tmp_path / "labels.jsonl"
    shared = [bare, "--embeddings", vectors, "--out", tmp_path / "r.html", "--labels", labels, "--workers", 1]
    before = json.loads(run(*shared, "--json"))
    assert before["recommended"]["enhance-similarity-mode"] == "shadow"
    assert all(row["policy"] == "threshold" for row in before["settings"])
    assert "Near misses to judge" in (tmp_path / "r.html").read_text()
    run(*shared, "--label", text="x\n" + "y\n" * 60 + "s\nn\nq\n")  # x is no answer and is asked again
    run(*shared, "--label", text="")  # the input ends: nothing more is judged, and the report is written all the same
    verdicts = [json.loads(line) for line in labels.read_text().splitlines()]
    assert [row["same"] for row in verdicts] == [1] * 60 + [0]
    after = json.loads(run(*shared, "--json"))
    loosest = (before["settings"][0]["error"], after["settings"][0]["error"])
    assert loosest[1][2] - loosest[1][1] < 0.5 * (loosest[0][2] - loosest[0][1])


@pytest.mark.parametrize(
    ("shape", "problem"), [((10, DIMENSION), "one row for each"), (None, "is wanted"), ("text", "holds no embeddings")]
)
def test_embeddings_that_do_not_fit_are_told(
    stream: tuple[Path, Path], tmp_path: Path, shape: object, problem: str
) -> None:
    file = tmp_path / "given.npy"
    if isinstance(shape, tuple):
        np.save(file, np.zeros(shape, np.float32))
    elif shape == "text":
        file.write_text("no array")
    result = CliRunner().invoke(
        application(), ["tune", str(stream[0]), "--embeddings", str(file), "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 1
    assert problem in str(result.exception)


def test_several_processes_find_what_one_finds(stream: tuple[Path, Path], tmp_path: Path) -> None:
    log, vectors = stream
    shared = [log, "--embeddings", vectors, "--out", tmp_path / "r.html", "--labels", tmp_path / "n", "--json"]
    one, two = (json.loads(run(*shared, "--workers", workers)) for workers in (1, 2))
    assert one == two


LOADER = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm_enhance.engine.activation import register
register()
parser = FlexibleArgumentParser()
make_arg_parser(parser.add_subparsers(dest="subparser").add_parser("serve"))
found = vars(parser.parse_args(["serve", "--config", sys.argv[1]]))
print("READ", found["enhance"], found["enhance_similarity_mode"], found["enhance_similarity_threshold"])
"""


def test_vllms_own_loader_reads_the_settings_as_they_are_meant(tmp_path: Path) -> None:
    pytest.importorskip("vllm.version")
    advice = Advice({"enhance-similarity-mode": "on", "enhance-similarity-threshold": "0.97"}, "", None)
    config = tmp_path / "tuned.yaml"
    config.write_text("model: some/model\n" + render_yaml(advice))
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(config)], capture_output=True, text=True, timeout=300, check=False
    )
    assert "READ True on 0.97" in done.stdout, done.stderr[-2000:]
