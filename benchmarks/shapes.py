"""Models of real size without real weights, for ``--load-format dummy``: a configuration, and a tokenizer to fit.

Speed depends on the shape of a model, not on what its weights say. The vocabulary is byte-level, so a prompt of a
thousand letters has a thousand tokens, and filled up with made-up words, so that whatever is sampled can be said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["SHAPES", "make_shape"]

SHAPES: dict[str, dict[str, Any]] = {
    # The published dimensions of Llama 3.1 8B, Llama 3.2 1B and Qwen3 32B (as a Llama).
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256},
    "32b": {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
}  # fmt: skip
SPECIAL = ("<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_shape(name: str, directory: Path) -> Path:
    """Write configuration and tokenizer of one of :data:`SHAPES` into ``directory``.

    Raises:
        KeyError: no such shape.
    """
    from transformers import PreTrainedTokenizerFast

    shape = SHAPES[name]
    directory.mkdir(parents=True, exist_ok=True)
    size = shape["vocab_size"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": size - len(SPECIAL),
        "eos_token_id": size - len(SPECIAL) + 1,
        **shape,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(size - len(SPECIAL)),
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=list(SPECIAL[2:]),
        model_max_length=8192,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    return directory


def _byte_level(size: int) -> Any:
    """A byte-level tokenizer of ``size`` tokens, the first 256 of which are the bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary |= {f"w{number}": number for number in range(len(letters), size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
