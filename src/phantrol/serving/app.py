"""The application: routes that clients of OpenAI's protocol know, over one scheduler. See server.py for its life."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse

from phantrol.inference.engine import Engine
from phantrol.inference.running import Event, Failure
from phantrol.inference.sampling import not_followed
from phantrol.inference.scheduler import QueueFull, Scheduler
from phantrol.models.conversation import Chat
from phantrol.serving import page
from phantrol.serving.answering import Answering, Wording, too_slow
from phantrol.serving.errors import Refusal, server_fault
from phantrol.serving.fetching import Fetcher
from phantrol.serving.guard import Guard
from phantrol.serving.limits import Limits
from phantrol.serving.metrics import Metrics
from phantrol.serving.protocol import ChatRequest, ConversationRequest, Message, parse
from phantrol.serving.reading import AT_ONCE, Question, Reader, conversation_refusal

Result = TypeVar("Result")


class Service:
    """What the routes share. `guard` is the application to serve; `scheduler` runs from its start to its end."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        limits: Limits | None = None,
        api_key: str | None = None,
        image_hosts: Iterable[str] = (),
        local_names: bool = True,
        fetcher: Fetcher | None = None,
    ):
        self.engine, self.name, self.limits = engine, name, limits or Limits()
        self.scheduler = Scheduler(engine, self.limits.rows, self.limits.queue)
        self.reader = Reader(engine, self.limits, fetcher or Fetcher(image_hosts, self.limits))
        self.wording = Wording(name, copy.deepcopy(engine.processor.tokenizer))
        self.metrics = Metrics(self.scheduler)
        self._looks = asyncio.Semaphore(AT_ONCE)
        self.created = int(time.time())
        self.app = _application(self)
        self.guard = Guard(self.app, self.limits, api_key, local_names, self._count)

    def _count(self, route: str, status: int, seconds: float) -> None:
        self.metrics.requests.labels(route, str(status)).inc()
        if route == "/v1/chat/completions" and status == 200:
            self.metrics.request_s.observe(seconds)

    async def chat_completion(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        began = time.monotonic()
        asked = parse(ChatRequest, await request.body())
        self.check_model(asked.model)
        question = await unless_gone(request, self.reader.question(asked))
        is_first = True

        def heard(event: Event) -> None:
            nonlocal is_first
            if is_first and not isinstance(event, Failure):  # a token
                self.metrics.first_token_s.observe(time.monotonic() - began)
            is_first = False

        answering = self._submit(question, heard)  # and no await before what frees its rows
        left_s = self.limits.request_s - (time.monotonic() - began)
        self.metrics.prompt_tokens.inc(len(question.prompt.input_ids))
        self.metrics.image_tokens.inc(question.num_image_tokens)
        if asked.stream:
            include_usage = asked.stream_options is not None and asked.stream_options.include_usage
            lines = self.wording.chunks(answering, include_usage, left_s, self.limits.request_s)
            return _Stream(self, answering, lines)
        try:
            async with asyncio.timeout(left_s):
                return JSONResponse(await unless_gone(request, self.wording.completion(answering)))
        except TimeoutError:
            raise too_slow(self.limits.request_s) from None
        finally:
            self.leave(answering)

    def leave(self, answering: Answering) -> None:
        """Free the rows of an answer, done or not, and count it."""
        answering.ticket.cancel()
        self.metrics.answer_tokens.inc(answering.num_new_tokens)

    def check_model(self, name: str) -> None:
        """Raise Refusal (404) unless this server has the model."""
        if name != self.name:
            raise Refusal(404, f"this server has one model, {self.name!r}", "model", "model_not_found")

    async def look(self, request: Request, work: Callable[[Chat], Result]) -> Result:
        """Do a piece of work with the engine and the chat in a body {"messages": [...]}, its pictures decoded, within
        the limits, between two steps of the batch. Raises Refusal.

        Work that has not begun when its client leaves is not done.
        """
        asked = parse(ConversationRequest, await request.body())
        if asked.model is not None:
            self.check_model(asked.model)
        return await unless_gone(request, self._look(asked.messages, work))

    async def _look(self, messages: Sequence[Message], work: Callable[[Chat], Result]) -> Result:
        async with self._looks:  # its pictures are in memory until its turn has come
            chat = await self.reader.chat(messages)
            return await self._between_steps(lambda: work(chat))

    async def _between_steps(self, work: Callable[[], Result]) -> Result:
        """Do a piece of work in the scheduler's thread; its ValueErrors are refused (400)."""
        wanted = [work]

        def guarded(engine: Engine) -> tuple[Result | None, Exception | None]:
            try:
                return wanted.pop()(), None
            except Exception as error:  # a StopIteration, say, could not pass through a future
                return None, error

        try:
            result, error = await asyncio.wrap_future(self.scheduler.between_steps(guarded))
        except QueueFull:
            raise Refusal(503, "the server is stopping", code="draining", retry_after_s=5) from None
        finally:
            wanted.clear()  # the scheduler forgets work that nobody waits for only at its turn, and it holds pictures
        if isinstance(error, ValueError):
            raise conversation_refusal(error)
        if error is not None:
            raise RuntimeError("a piece of work with the engine failed") from error
        return result

    def _submit(self, question: Question, heard: Callable[[Event], None]) -> Answering:
        try:
            return Answering(self.scheduler, question, heard)
        except QueueFull:
            raise Refusal(429, "too many requests wait: come again", code="queue_full", retry_after_s=2) from None


class _Stream(StreamingResponse):
    """A stream that frees its rows whether it was read to its end, left midway, or never begun."""

    def __init__(self, service: Service, answering: Answering, lines: Any):
        super().__init__(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._service, self._answering = service, answering

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            if not self._answering.is_done:
                self._service.metrics.cancelled.inc()
            self._service.leave(self._answering)


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Await `work`, and cancel it if the client leaves first. The body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _application(service: Service) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        service.scheduler.start()
        yield
        await asyncio.to_thread(service.scheduler.close)
        service.reader.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, gone: ClientDisconnect) -> Response:
        service.metrics.cancelled.inc()
        return Refusal(499, "the client left").response()  # nobody reads it, but it is counted

    @app.exception_handler(StarletteHTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        message = {404: "no such route", 405: "this route takes no such method"}.get(error.status_code, "refused")
        return Refusal(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return server_fault().response()  # the guard logs it

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await service.chat_completion(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return _model(service)

    @app.get("/health")
    async def health() -> Response:
        fault, ignored = service.scheduler.batch.fault, not_followed(service.engine.model.generation_config)
        state = {
            "status": "draining" if service.guard.draining else "ok",
            "model": service.name,
            "batching": fault is None,
            **({} if fault is None else {"why_not": f"requests run one at a time: {fault}"}),
            **({"not_followed": ignored} if ignored else {}),
            "running": service.scheduler.num_running,
            "waiting": service.scheduler.num_waiting,
        }
        return JSONResponse(state, 503 if service.guard.draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")

    app.include_router(page.routes(service.engine, service.look))
    return app


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "phantrol"}
