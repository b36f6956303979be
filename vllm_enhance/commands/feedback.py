"""`vllm-enhance feedback`: this answer was wrong."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vllm_enhance.commands.client import Server
from vllm_enhance.commands.options import ApiKey, AsJson, BaseUrl
from vllm_enhance.commands.output import console, print_json, text

__all__ = ["feedback"]


def feedback(
    request_id: Annotated[str, typer.Argument(help="The id of the response, such as chatcmpl-...")],
    verdict: Annotated[Literal["wrong", "right"], typer.Argument(help="What the answer was.")] = "wrong",
    base_url: BaseUrl = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Tell the server that an answer was wrong, so that it is not given again, or that it was right."""
    with Server(base_url, api_key) as server:
        result = server.post("feedback", {"request_id": request_id, "verdict": verdict})
    if as_json:
        print_json(result)
        return
    gone = "; its stored answer is forgotten" if verdict == "wrong" and result.get("removed") else ""
    learned = "; similarity has learned from it" if result.get("learned") else ""
    console().print(text(f"noted: {request_id} was {verdict}{gone}{learned}"))
