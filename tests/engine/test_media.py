"""Images in the key: vLLM's own renderer for a real multimodal model, without the engine behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers.registry import renderer_from_config
from vllm.sampling_params import SamplingParams

from vllm_enhance.engine.identity import model_identity
from vllm_enhance.engine.key import request_key
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
        prompt = {"prompt_token_ids": [256, 264, 63], "multi_modal_data": {"image": picture(color)}, **extra}
        rendered = self.renderer.process_for_engine(prompt, arrival_time=0.0)
        assert rendered["type"] == "multimodal"
        assert rendered["prompt_token_ids"].count(264) == 4
        identity = model_identity(self.config)
        return request_key(prompt=rendered, params=SamplingParams(), identity=identity, epoch=b"").digest


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
        ({"limit_mm_per_prompt": {"image": 2}}, True),
    ],
)
def test_how_the_server_processes_images_is_part_of_the_model(
    tiny_vision_model: Path, changes: dict[str, Any], same: bool
) -> None:
    assert (model_identity(config(tiny_vision_model, **changes)) == model_identity(config(tiny_vision_model))) is same
