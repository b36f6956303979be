"""NLTK and jieba are optional: without them everything still works, and importing the package loads neither."""

from __future__ import annotations

import subprocess
import sys

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nltk", "jieba"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_analysis_works_without_nltk_and_jieba() -> None:
    program = BLOCK + (
        "from vllm_enhance_nlp import analyze\n"
        "from vllm_enhance_nlp.words import backends, words\n"
        "assert backends() == {'nltk': False, 'jieba': False}\n"
        "for text in ('What is TCP and when should I use it?', '什么是人工智能，它有哪些应用？'):\n"
        "    print([one.text for one in analyze(text).sub_questions])\n"
        "print(len(analyze('Dr. No paid $3.50. Why?').sentences), words('It is.', 'en'), words('你好 abc', 'zh'))\n"
    )
    assert run(program).splitlines() == [
        "['What is TCP?', 'When should I use TCP?']",
        "['什么是人工智能？', '人工智能有哪些应用？']",
        "2 ['It', 'is', '.'] ['你好', 'abc']",
    ]


def test_the_goals_hold_without_the_libraries() -> None:
    program = BLOCK + (
        "import runpy\n"
        "bench = runpy.run_path('benchmarks/nlp.py')\n"
        "for language in ('en', 'zh'):\n"
        "    items = bench['load'](bench['DATA'], language, 'dev')\n"
        "    for task, goal in bench['GOALS'].items():\n"
        "        assert bench['score'](task, items)[0]['f1'] >= goal, (language, task)\n"
    )
    run(program)


def test_importing_is_cheap() -> None:
    program = (
        "import sys, vllm_enhance_nlp, vllm_enhance_nlp.plugin\n"
        "heavy = {'nltk', 'jieba', 'numpy', 'torch', 'vllm', 'vllm_enhance_nlp.analysis'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(program).strip() == "[]"


def test_public_names_are_there() -> None:
    import vllm_enhance_nlp

    assert vllm_enhance_nlp.__all__ == sorted(vllm_enhance_nlp.__all__)
    for name in vllm_enhance_nlp.__all__:
        assert getattr(vllm_enhance_nlp, name) is not None
