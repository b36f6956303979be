"""`vllm-enhance explain`: why a request hit, why it missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from vllm_enhance.commands.client import Server, ServerProblem
from vllm_enhance.commands.options import ApiKey, AsJson, BaseUrl
from vllm_enhance.commands.output import SOURCES, console, duration, print_json, table, text
from vllm_enhance.reasons import REASONS

__all__ = ["explain", "sentences"]


def explain(
    request_id: Annotated[
        str, typer.Argument(help="The id of the response, such as chatcmpl-..., or `last` for the latest request.")
    ],
    base_url: BaseUrl = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Why a recent request hit or missed: reason, nearest stored request, similar questions, the guard that refused."""
    with Server(base_url, api_key) as server:
        if request_id == "last":
            latest = server.get("requests", limit=1)["requests"]
            if not latest:
                raise ServerProblem("the server remembers no request yet")
            request_id = latest[0]["request_id"]
        found = server.get(f"requests/{quote(request_id, safe='')}")
    if as_json:
        print_json(found)
        return
    out = console()
    for sentence in sentences(found):
        out.print(text(sentence))
    if found.get("similar"):
        rows = [
            (f"{each['similarity']:.4f}", each.get("refused_by"), each.get("question") or each["key"][:16])
            for each in found["similar"]
        ]
        out.print()
        out.print(table(("Similarity>", "Refused by", "Stored question"), rows))
    out.print()
    out.print(table(("", ""), facts(found)))


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What happened, in words."""
    lines = [f"“{found['question']}”"] if found.get("question") else []
    source, reason = found.get("source"), found.get("reason")
    if source == "engine":
        lines.append(f"Generated ({reason}): {REASONS.get(reason, reason)}" if reason else "Generated: a miss.")
    elif source:
        age = f", generated {duration(found['age'])} earlier" if found.get("age") is not None else ""
        lines.append(f"Answered without generating: {SOURCES.get(source, source)}{age}.")
    else:
        lines.append("Not decided yet.")
    if found.get("similarity") is not None:
        lines.append(f"Similarity of the two questions: {found['similarity']:.4f}.")
    if found.get("not_stored"):
        kept = found["not_stored"]
        lines.append(f"Its answer was not kept ({kept}): {REASONS.get(kept, kept)}")
    nearest = found.get("nearest")
    if nearest:
        differs = ", ".join(part + _where(part, nearest, found) for part in nearest["differs_in"])
        lines.append(
            f"The nearest remembered request, {nearest['request_id']}, differs in: {differs}."
            if differs
            else f"Request {nearest['request_id']} has the same key; its answer was not there, or not any more."
        )
    return lines + [f"{who}: {what}" for who, what in found.get("notes") or []]


def _where(part: str, nearest: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """In brackets, what is known of how a part of the key differs."""
    if part == "sampling" and nearest.get("sampling_fields"):
        return f" ({', '.join(nearest['sampling_fields'])})"
    if part == "prompt" and nearest.get("prompt_differs_at") is not None:
        return f" (from token {nearest['prompt_differs_at'] + 1} of {found.get('prompt_tokens', '?')} on)"
    return ""


FACTS = ("request_id", "model", "key", "tenant", "prompt_tokens", "output_tokens")


def facts(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The rest, as rows."""
    rows = [(name.replace("_", " "), found[name]) for name in FACTS if found.get(name) not in (None, "")]
    for name, label in (("decided_seconds", "decided in"), ("seconds", "whole answer in")):
        if found.get(name) is not None:
            rows.append((label, duration(found[name])))
    return rows
