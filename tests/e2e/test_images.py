"""Questions about pictures, to a real multimodal model: each picture has its own answer, whatever is remembered."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import merged_chunks, sse
from PIL import Image

from vllm_enhance.testing.server import ServerProcess

pytestmark = pytest.mark.engine

MISS, HIT = "vllm-enhance; fwd=miss; stored", "vllm-enhance; hit"
PAST = "vllm-enhance; fwd=bypass; detail=multimodal_cache"


def encoded(color: str, kind: str = "png") -> bytes:
    """One picture, the same bytes each time."""
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), color).save(buffer, kind)
    return buffer.getvalue()


def data_url(color: str, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded(color, kind)).decode()}"


class Asker:
    """Asks one server about pictures; ``told`` is the ``Cache-Status`` of the last answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.told = ""

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        body = {"model": "tiny", "temperature": 0, **body}
        reply = httpx.post(f"{self.url}{path}", json=body, timeout=120)
        assert reply.status_code == 200, reply.text
        self.told = reply.headers["cache-status"]
        return reply

    def chat(self, text: str, *urls: str, **extra: Any) -> str:
        reply = self.post("/v1/chat/completions", chat_body(text, urls, **extra))
        return str(reply.json()["choices"][0]["message"]["content"])


def chat_body(text: str, urls: Sequence[str], **extra: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    parts.append({"type": "text", "text": text})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 16, **extra}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "red.png").write_bytes(encoded("red"))
    return folder


@pytest.fixture(scope="module")
def asker(tiny_vision_model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    """A server whose processor cache is off, so that pictures may be answered from memory."""
    arguments = ("--enhance", "--mm-processor-cache-gb", "0", "--allowed-local-media-path", str(pictures))
    log = tmp_path_factory.mktemp("images") / "server.log"
    with ServerProcess(tiny_vision_model, arguments, log=log) as server:
        yield Asker(server.base_url)


def test_the_same_picture_is_answered_from_memory_and_another_is_not(asker: Asker) -> None:
    first = asker.chat("What is it?", data_url("red"))
    assert asker.told == MISS
    assert asker.chat("What is it?", data_url("red")) == first
    assert asker.told.startswith(HIT)
    assert asker.chat("What is it?", data_url("blue")) != first
    assert asker.told == MISS
    assert asker.chat("And now?", data_url("red")) != first
    assert asker.told == MISS


def test_what_counts_is_the_bytes_of_the_picture_not_its_address(asker: Asker, pictures: Path) -> None:
    first = asker.chat("Where from?", data_url("red"))
    assert asker.told == MISS
    assert asker.chat("Where from?", (pictures / "red.png").as_uri()) == first
    assert asker.told.startswith(HIT)
    assert asker.chat("Where from?", data_url("red", "bmp")) == first  # the same pixels, but nobody looked
    assert asker.told == MISS


def test_a_picture_changed_in_its_place_is_another(asker: Asker, pictures: Path) -> None:
    file = pictures / "changing.png"
    file.write_bytes(encoded("red"))
    first = asker.chat("Changed?", file.as_uri())
    file.write_bytes(encoded("blue"))
    assert asker.chat("Changed?", file.as_uri()) != first
    assert asker.told == MISS


def test_order_and_number_of_pictures_matter(asker: Asker) -> None:
    red, blue = data_url("red"), data_url("blue")
    orders: list[tuple[str, ...]] = [(), (red,), (red, red), (red, blue), (blue, red)]
    answers = [asker.chat("How many?", *order) for order in orders]
    assert len(set(answers)) == len(orders)
    for order, answer in zip(orders, answers, strict=True):
        assert asker.chat("How many?", *order) == answer
        assert asker.told.startswith(HIT)


def test_one_record_serves_streams_and_other_apis(asker: Asker) -> None:
    text, picture = "Which API?", data_url("green")
    first = asker.chat(text, picture)
    stream = asker.post("/v1/chat/completions", chat_body(text, [picture], stream=True))
    assert stream.headers["cache-status"].startswith(HIT)
    assert merged_chunks(sse(stream.text.splitlines()))["choices"][0]["text"] == first
    source = {"type": "base64", "media_type": "image/png", "data": picture.partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": text}]
    message = asker.post("/v1/messages", {"messages": [{"role": "user", "content": content}], "max_tokens": 16})
    assert message.json()["content"][0]["text"] == first
    assert asker.told.startswith(HIT)
    parts = [{"type": "input_image", "image_url": picture, "detail": "auto"}, {"type": "input_text", "text": text}]
    said = asker.post("/v1/responses", {"input": [{"role": "user", "content": parts}], "max_output_tokens": 16})
    assert said.json()["output"][0]["content"][0]["text"] == first
    assert asker.told.startswith(HIT)


def test_callers_with_one_picture_share_a_generation_and_others_do_not(asker: Asker) -> None:
    colors = ["cyan", "pink"] * 20

    def ask(color: str) -> tuple[str, str, str]:
        mine = Asker(asker.url)
        return color, mine.chat("All at once?", data_url(color), max_tokens=64), mine.told

    with ThreadPoolExecutor(len(colors)) as pool:
        replies = list(pool.map(ask, colors))
    assert len({(color, answer) for color, answer, _ in replies}) == 2
    assert len({answer for _, answer, _ in replies}) == 2
    sources = Counter(told.split(";")[-1].strip() for _, _, told in replies)
    assert sources["stored"] == 2, sources
    assert sources["collapsed"] + sources["detail=exact"] == len(colors) - 2, sources


def test_behind_the_default_processor_cache_pictures_go_past_ours(
    tiny_vision_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """vLLM's cache must see every picture; texts are answered from memory as ever."""
    log = tmp_path_factory.mktemp("images") / "default.log"
    with ServerProcess(tiny_vision_model, ["--enhance"], log=log) as server:
        asker = Asker(server.base_url)
        answers: dict[tuple[str, str], str] = {}
        for _ in range(2):
            for text in ("What is it?", "And now?"):
                for color in ("red", "blue", "green"):
                    answer = asker.chat(text, data_url(color))
                    assert asker.told == PAST
                    assert answers.setdefault((text, color), answer) == answer
        assert len(set(answers.values())) == 6
        plain = asker.chat("What is it?")
        assert asker.told == MISS
        assert asker.chat("What is it?") == plain
        assert asker.told.startswith(HIT)
