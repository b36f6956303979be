"""Images in the key: vLLM's own renderer for a real multimodal model, without the engine behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers.registry import renderer_from_config
from vllm.sampling_params import SamplingParams

from vllm_enhance.directives import NO_DIRECTIVES
from vllm_enhance.engine.admission import Applicant, bypass_reason
from vllm_enhance.engine.identity import model_identity
from vllm_enhance.engine.key import RequestKey, request_key
from vllm_enhance.engine.media import media_obstacle

OFF: dict[str, Any] = {"mm_processor_cache_gb": 0}
NO_PREFIXES = {"enable_prefix_caching": False}


def config(model: Path, **changes: Any) -> Any:
    arguments = EngineArgs(model=str(model), max_model_len=512, enforce_eager=True, **changes)
    return arguments.create_engine_config()


class Front:
    """What of a server's front end renders requests and judges them."""

    def __init__(self, model: Path, **changes: Any) -> None:
        self.config = config(model, **changes)
        self.renderer = renderer_from_config(self.config)
        client = SimpleNamespace(renderer=self.renderer, vllm_config=self.config)
        self.obstacle = media_obstacle(client)

    def key(self, color: str, **extra: Any) -> bytes:
        """The exact key of one question about one picture."""
        return self.named(color, **extra).digest

    def named(self, color: str, question: int = 63, **extra: Any) -> RequestKey:
        prompt = {"prompt_token_ids": [256, 264, question], "multi_modal_data": {"image": picture(color)}, **extra}
        rendered = self.renderer.process_for_engine(prompt, arrival_time=0.0)
        assert rendered["type"] == "multimodal"
        assert rendered["prompt_token_ids"].count(264) == 4
        identity = model_identity(self.config)
        return request_key(prompt=rendered, params=SamplingParams(), identity=identity, epoch=b"")


@contextmanager
def front(model: Path, **changes: Any) -> Iterator[Front]:
    made = Front(model, **changes)
    try:
        yield made
    finally:
        made.renderer.shutdown()


def picture(color: str) -> Image.Image:
    return Image.new("RGB", (56, 56), color)


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({}, "multimodal_cache"),
        (NO_PREFIXES, "multimodal_cache"),
        ({"mm_processor_cache_type": "shm"}, "multimodal_cache"),
        (OFF, None),
        (OFF | NO_PREFIXES, "multimodal_unhashed"),
        ({"_api_process_count": 2, "_api_process_rank": 0}, None),
    ],
    ids=["default", "no prefix caching", "shared memory", "off", "off, no prefix caching", "two servers"],
)
def test_images_are_cached_only_where_their_hash_is_their_content(
    tiny_vision_model: Path, changes: dict[str, Any], obstacle: str | None
) -> None:
    """A restarted server counts requests from zero: a name that is a number would be another image's."""
    with front(tiny_vision_model, **changes) as first:
        assert first.obstacle == obstacle
        red = first.key("red")
    with front(tiny_vision_model, **changes) as second:
        blue, again = second.key("blue"), second.key("red")
    if obstacle != "multimodal_unhashed":
        assert red != blue
        assert again == red
    else:
        assert red == blue  # why it must go past the cache
        assert again != red


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper without weights: the front end needs none."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    folder = tmp_path_factory.mktemp("speech")
    vocabulary = {chr(letter): letter - 33 for letter in range(33, 127)}
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    vocabulary |= {word: len(vocabulary) + place for place, word in enumerate(special)}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special[1:])
    WhisperProcessor(WhisperFeatureExtractor(chunk_length=1), tokenizer).save_pretrained(folder)
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1, "decoder_attention_heads": 1}
    WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=64,
        max_source_positions=50,
        max_target_positions=64,
        architectures=["WhisperForConditionalGeneration"],
        **layers,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("changes", [{}, {"_api_process_count": 2, "_api_process_rank": 0}], ids=["one", "two servers"])
def test_speech_to_text_goes_past_the_cache(speech_model: Path, changes: dict[str, Any]) -> None:
    """For encoder-decoder models vLLM switches off both caches, and with them the content hash."""
    made = EngineArgs(model=str(speech_model), max_model_len=64, enforce_eager=True, **changes).create_engine_config()
    keys = []
    for pitch in (440, 880):
        renderer = renderer_from_config(made)  # as after a restart
        assert media_obstacle(SimpleNamespace(renderer=renderer, vllm_config=made)) == "multimodal_unhashed"
        sound = np.sin(np.arange(8000) * 2 * np.pi * pitch / 16000).astype(np.float32)
        encoder = {"prompt_token_ids": [], "multi_modal_data": {"audio": (sound, 16000)}}
        asked = {"encoder_prompt": encoder, "decoder_prompt": {"prompt_token_ids": [95, 96, 97]}}
        prompt = renderer.process_for_engine(asked, arrival_time=0.0)
        assert bypass_reason(Applicant(prompt, SamplingParams(), NO_DIRECTIVES, 0, True, "multimodal_unhashed"))
        keys.append(request_key(prompt=prompt, params=SamplingParams(), identity=b"", epoch=b"").digest)
        renderer.shutdown()
    assert keys[0] == keys[1]  # why: two recordings, one name


def test_similar_questions_are_looked_for_among_those_about_the_same_picture(tiny_vision_model: Path) -> None:
    with front(tiny_vision_model, **OFF) as server:
        red, reworded, blue = server.named("red"), server.named("red", question=64), server.named("blue")
    assert reworded.digest != red.digest
    assert reworded.partition(b"frame") == red.partition(b"frame") != blue.partition(b"frame")


def test_what_the_client_says_about_processing_is_part_of_the_key(tiny_vision_model: Path) -> None:
    with front(tiny_vision_model, **OFF) as server:
        options = [
            {},
            {"mm_processor_kwargs": {"do_normalize": False}},
            {"multi_modal_uuids": {"image": ["a"]}},
            {"multi_modal_uuids": {"image": ["b"]}},
        ]
        assert len({server.key("red", **each) for each in options}) == len(options)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"mm_processor_kwargs": {"do_normalize": False}}, False),
        ({"media_io_kwargs": {"image": {"image_mode": None}}}, False),
        (OFF, True),
    ],
)
def test_how_the_server_processes_images_is_part_of_the_model(
    tiny_vision_model: Path, changes: dict[str, Any], same: bool
) -> None:
    assert (model_identity(config(tiny_vision_model, **changes)) == model_identity(config(tiny_vision_model))) is same
