"""A sentence-transformers model in ONNX Runtime, converted in memory when it is loaded.

Why not the ONNX backend of sentence-transformers: it needs `optimum`, whose releases exclude the transformers that vLLM
needs. What is exported is the whole pipeline behind the tokenizer (transformer, pooling, dense layers, normalization),
so whatever traces is covered and no pooling is written twice.

Texts are encoded one at a time. Padding would make a vector depend on who shares its batch, for dynamic quantization
chooses its scale over the whole input, and on a CPU a batch saves nothing: 6.4 ms for eight texts of 14 tokens, 1.0 for
one (MiniLM, int8, one core with VNNI).
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_enhance_similarity.errors import EmbeddingBackendMissing, EmbeddingBackendRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["convert"]

_OUTPUT = "sentence_embedding"
_SAMPLE = ("one text", "and a second that is somewhat longer than the first")  # traced: a batch, padded

# The vectors of these must be those of the original. Lengths and scripts differ, and so does what tokens they give.
_PROBES = (
    "ok",
    "How can I reset the password of my account?",
    "什么是人工智能，它有哪些应用？",
    "def mean(xs): return sum(xs) / len(xs)  # 3.5 °C",
    "Which of the two is faster when the disk is full, and why does the kernel then end processes? " * 4,
)
_LEAST_COSINE = {"float32": 0.9999, "int8": 0.97}
_MOST_BYTES = 2**30  # of weights: to convert them takes four times their size in memory, for a moment


def convert(model: Any, precision: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Return the encoder of `model`, a loaded SentenceTransformer on the CPU, as a function of ONNX Runtime.

    Takes about a second for MiniLM, two with int8, and a directory for temporary files. `model` is left as it was.

    Args:
        precision: "float32", or "int8": weights rounded for each output channel, activations for each text (dynamic
            quantization, https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).

    Returns:
        texts -> unit vectors, shape (n, dimension), float32; uses one core; not for several threads at once.

    Raises:
        EmbeddingBackendMissing: onnx or onnxruntime is not installed.
        EmbeddingBackendRefused: the model is too large or does not export, or it gives other vectors than the original.
    """
    import numpy as np

    try:
        import onnx  # noqa: F401 - torch's exporter and the quantizer want it
        import onnxruntime
    except ImportError as fault:
        raise EmbeddingBackendMissing("ONNX Runtime", str(fault)) from fault
    if sum(weights.nbytes for weights in model.parameters()) > _MOST_BYTES:
        raise EmbeddingBackendRefused(precision, f"it has more than {_MOST_BYTES >> 20} MiB of weights")
    try:
        with tempfile.TemporaryDirectory(prefix="vllm-enhance-onnx-") as folder:
            names, file = _export(model, Path(folder))
            if precision == "int8":
                file = _quantized(file)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1  # the other cores are the engine's
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def encode(texts: Sequence[str]) -> NDArray[np.float32]:
            rows = []
            for text in texts:
                features = _features(model, [text])
                rows.append(session.run([_OUTPUT], {name: features[name].numpy() for name in names})[0][0])
            return np.ascontiguousarray(rows, dtype=np.float32)

        original = model.encode(list(_PROBES), normalize_embeddings=True, show_progress_bar=False)
        cosine = float((encode(_PROBES) * np.asarray(original, dtype=np.float32)).sum(axis=1).min())
    except Exception as fault:  # exporter, quantizer and runtime have many kinds; each means "not this model"
        raise EmbeddingBackendRefused(precision, f"{type(fault).__name__}") from fault
    if not cosine >= _LEAST_COSINE[precision]:  # so written, NaN is refused too
        raise EmbeddingBackendRefused(precision, f"a vector's cosine with the original was {cosine:.4f}")
    return encode


def _features(model: Any, texts: list[str]) -> dict[str, Any]:
    """Tokenize as `SentenceTransformer.encode` does, with the model's own prompt if it has one."""
    prompt = (getattr(model, "prompts", None) or {}).get(getattr(model, "default_prompt_name", None) or "", "")
    tokenize = getattr(model, "preprocess", None) or model.tokenize  # the second until sentence-transformers 5
    features: dict[str, Any] = tokenize([prompt + text for text in texts])
    return features


def _export(model: Any, folder: Path) -> tuple[list[str], Path]:
    """Write the model as ONNX; returns the names of its inputs and the file."""
    import torch

    # Filters by category and for good: `catch_warnings` is of the process and would race with other threads.
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    for module in (r"torch\.onnx", re.escape(__name__)):  # the second: that `dynamo=False` is the older exporter
        warnings.filterwarnings("ignore", module=module)
    sample = _features(model, list(_SAMPLE))
    names = [name for name, value in sample.items() if isinstance(value, torch.Tensor)]
    if any(sample[name].dim() != 2 for name in names):  # word tables; torch prints the graph when an export fails
        raise ValueError("not a model of tokens: its inputs are not of shape (batch, tokens)")

    class Pipeline(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            embedding = self.model(dict(zip(names, tensors, strict=True)))[_OUTPUT]
            return torch.nn.functional.normalize(embedding, dim=-1)

    file = folder / "model.onnx"
    with torch.inference_mode():
        torch.onnx.export(
            Pipeline().eval(),
            tuple(sample[name] for name in names),
            str(file),
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_axes={**{name: {0: "batch", 1: "tokens"} for name in names}, _OUTPUT: {0: "batch"}},
            dynamo=False,  # the newer exporter takes ten times as long and a package more
        )
    return names, file


def _quantized(file: Path) -> Path:
    """The same model with int8 products; the table of token embeddings stays as it is."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(file))
    # The mark of onnxruntime's own preprocessing, which changed neither time nor vectors here. Unmarked, it warns.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    target = file.with_name("int8.onnx")
    with _as_it_logs():
        quantize_dynamic(
            model, str(target), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )
    return target


@contextlib.contextmanager
def _as_it_logs() -> Iterator[None]:
    """Keep the quantizer's `logging.info(...)` from configuring the server's root logger, as it does to a bare one."""
    root = logging.getLogger()
    handler = logging.lastResort  # what a bare root logger uses: with it nothing looks different meanwhile
    if root.handlers or handler is None:
        yield
        return
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
