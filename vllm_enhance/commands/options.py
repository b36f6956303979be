"""Options that the commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["ApiKey", "AsJson", "BaseUrl"]

BaseUrl = Annotated[str, typer.Option("--base-url", envvar="ENHANCE_BASE_URL", help="Address of the server.")]
ApiKey = Annotated[
    str, typer.Option("--api-key", envvar="VLLM_API_KEY", show_envvar=True, help="The server's API key, if it has one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
