"""The files of the status page: what is served, and that nothing in them needs a looser content policy."""

from __future__ import annotations

import re
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from vllm_enhance.server.endpoint import EnhanceEndpoint
from vllm_enhance.server.page import FILES, PAGE, SECURITY_HEADERS
from vllm_enhance.settings import SettingsTable, resolve

FOLDER = files("vllm_enhance.server").joinpath("ui")


def client_with(**environ: str) -> httpx.AsyncClient:
    app = FastAPI()
    EnhanceEndpoint(resolve(SettingsTable(), {}, environ)).attach_router(app)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_every_file_is_served_and_no_other() -> None:
    assert {each.name for each in FOLDER.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", ["", *FILES])
async def test_each_answer_carries_the_security_headers(name: str) -> None:
    async with client_with() as client:
        found = await client.get(f"{PAGE}/{name}" if name else PAGE)
    assert found.status_code == 200
    assert {key: found.headers[key] for key in SECURITY_HEADERS} == SECURITY_HEADERS
    assert found.headers["content-type"] == FILES[name or "index.html"]


@pytest.mark.parametrize("name", ["other.js", "..%2fpage.py", "%2e%2e/page.py", "..\\page.py"])
async def test_nothing_else_can_be_read(name: str) -> None:
    async with client_with() as client:
        assert (await client.get(f"{PAGE}/{name}")).status_code == 404


async def test_the_page_can_be_switched_off() -> None:
    async with client_with(ENHANCE_UI="off") as client:
        assert (await client.get(PAGE)).status_code == 404
        assert (await client.get("/v1/enhance/ui")).status_code == 404
        assert (await client.get("/v1/enhance/health")).status_code == 503  # the routes stay


def test_the_content_policy_is_strict() -> None:
    policy = SECURITY_HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "http" not in policy


def test_no_script_style_or_handler_stands_in_the_page_itself() -> None:
    page = FOLDER.joinpath("index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert "//" not in page.replace("<!doctype", "")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_scripts_never_parse_text_as_markup_or_code(name: str) -> None:
    script = FOLDER.joinpath(name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)
    addresses = re.findall(r"https?://[^\"'\s]+", script)
    assert addresses in ([], ["http://www.w3.org/2000/svg"])
