"""Tiny models made on the spot: what the real engine serves where no model hub can be reached.

A Llama with four layers and random weights over a byte-level vocabulary, alone or behind a tiny image encoder. What it
says is noise, but printable, greedy noise is the same each time, and different prompts and images get different
answers, so a mixed-up answer shows. torch, transformers and safetensors are imported when a model is made, not before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "make_tiny_lora",
    "make_tiny_model",
    "make_tiny_vision_model",
    "tiny_lora",
    "tiny_model",
    "tiny_vision_model",
]

SPECIAL = ("<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>", "<|pad|>")
VISION_SPECIAL = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
BOS, EOS, PAD, IMAGE = 256, 257, 263, 264
HIDDEN, LAYERS, HEADS = 256, 4, 4
IMAGE_SIZE, PATCH, SHUFFLE = 56, 14, 2
"""Pixels a side of an image and of a patch, and how many patches a side make one token: 4 tokens an image."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}<|system|>You may call these tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|end|>{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'developer' %}<|system|>{% else %}{{ '<|' + message['role'] + '|>' }}{% endif %}
{%- if message['content'] %}{{ message['content'] }}{% endif %}
{%- if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}
{%- if message['role'] == 'tool' and message['tool_call_id'] %}{{ ' (' + message['tool_call_id'] + ')' }}{% endif %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def tiny_model(cache: Path) -> Path:
    """The tiny model's directory under ``cache``, made there if it is not yet, safely among several processes."""
    return _cached(cache, "tiny-model", make_tiny_model)


def tiny_lora(cache: Path, seed: int = 1) -> Path:
    """A LoRA adapter for the tiny model under ``cache``; see :func:`make_tiny_lora`."""
    return _cached(cache, f"tiny-lora-{seed}", lambda directory: make_tiny_lora(directory, seed))


def tiny_vision_model(cache: Path) -> Path:
    """A model that takes images beside text, under ``cache``; see :func:`make_tiny_vision_model`."""
    return _cached(cache, "tiny-vision-model", make_tiny_vision_model)


def make_tiny_model(directory: Path, seed: int = 0) -> None:
    """Write model, tokenizer, chat template and generation defaults into ``directory`` (about 6 MB)."""
    from transformers import LlamaForCausalLM

    _tokenizer().save_pretrained(directory)
    _save(lambda: LlamaForCausalLM(_text_config()), directory, seed)


def make_tiny_vision_model(directory: Path, seed: int = 0) -> None:
    """Write an Idefics3 over the tiny model's text half, with its image processor, into ``directory`` (about 7 MB).

    Of the architectures that vLLM can load without torchvision, the one with the plainest prompt: any image becomes
    seven tokens in its place.
    """
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    tokenizer = _tokenizer(VISION_SPECIAL)
    edge = {"longest_edge": IMAGE_SIZE}
    images = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    Idefics3Processor(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_len=(IMAGE_SIZE // PATCH // SHUFFLE) ** 2,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)
    config = Idefics3Config(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
            "initializer_range": 0.2,
        },
        text_config=_text_config(len(VISION_SPECIAL)),
        image_token_id=IMAGE,
        scale_factor=SHUFFLE,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    _save(lambda: Idefics3ForConditionalGeneration(config), directory, seed)


def _text_config(more_tokens: int = 0) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=256 + len(SPECIAL) + more_tokens,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        initializer_range=0.2,  # wide, so that what came before matters for what comes next
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )


def _save(make: Callable[[], Any], directory: Path, seed: int) -> None:
    """Random weights of this seed that say printable letters."""
    import torch
    from transformers import GenerationConfig

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
    with torch.no_grad():
        said = torch.zeros(model.lm_head.weight.shape[0], dtype=torch.bool)
        said[32:127] = True
        said[EOS] = True
        model.lm_head.weight[~said] = 0.0  # a logit of 0 against noise: almost never the largest
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(directory)


def make_tiny_lora(directory: Path, seed: int) -> None:
    """Write a LoRA adapter (PEFT's format, rank 8) that changes what the tiny model says.

    Args:
        seed: other seeds give other adapters.
    """
    import torch
    from safetensors.torch import save_file

    rank, targets = 8, ("q_proj", "v_proj")
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Any] = {}
    for layer in range(LAYERS):
        for target in targets:
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            for half, shape in (("lora_A", (rank, HIDDEN)), ("lora_B", (HIDDEN, rank))):
                weights[f"{name}.{half}.weight"] = 0.2 * torch.randn(shape, generator=generator)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-model",
        "r": rank,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(targets),
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(weights, directory / "adapter_model.safetensors")


def _tokenizer(more: tuple[str, ...] = ()) -> Any:
    """Byte-level: ids 0 to 255 are the bytes, then :data:`SPECIAL` and ``more``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
    vocabulary.update({word: 256 + index for index, word in enumerate((*SPECIAL, *more))})
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[7],
        additional_special_tokens=[*SPECIAL[2:7], *more],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in byte-level tokenizers (GPT-2's table)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def _cached(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = cache / f"{name}-{version}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
    try:
        make(scratch)
        scratch.chmod(0o755)
        try:
            os.rename(scratch, target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
