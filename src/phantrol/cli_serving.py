"""The verb `serve` of the command line. Heavy imports stand inside."""

from __future__ import annotations

from typing import Annotated

import typer

from phantrol.cli_talking import Model, Weights


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="the address to listen on; by default this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port to listen on")] = 8000,
    name: Annotated[str | None, typer.Option(help="what clients call the model; by default its folder's name")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="every route asks for it; also from the environment, PHANTROL_API_KEY")
    ] = None,
    allow_image_host: Annotated[
        list[str] | None, typer.Option(help="a host whose pictures may be fetched; by default none is")
    ] = None,
    weights: Weights = None,
    rows: Annotated[int, typer.Option(min=1, help="answers under way at the same time")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="requests that may wait; more are told to come again")] = 64,
    answer_tokens: Annotated[int, typer.Option(min=1, help="of the longest answer that one may ask for")] = 1024,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="of the longest prompt, pictures included")] = 16384,
    timeout: Annotated[float, typer.Option(min=1, help="of a request, in seconds")] = 300.0,
) -> None:
    """Serve a model to clients of OpenAI's protocol, and as a page, on this machine. Needs phantrol[serve]."""
    try:
        from phantrol.serving.fetching import check_image_hosts
        from phantrol.serving.guard import known_key

        known_key(api_key)
        check_image_hosts(allow_image_host or ())  # before torch is imported, which takes seconds

        from phantrol.serving.server import serve as serve_model
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "uvicorn", "prometheus_client", "starlette", "h11"):
            raise
        raise ValueError(f"{error.name} is missing: pip install 'phantrol[serve]'") from None
    from phantrol.serving.limits import Limits

    limits = Limits(rows=rows, queue=queue, answer_tokens=answer_tokens, prompt_tokens=prompt_tokens, request_s=timeout)
    serve_model(model, host, port, name, api_key, allow_image_host or (), weights, limits)
