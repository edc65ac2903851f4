"""The part of OpenAI's chat protocol that this server speaks. What it does not know it refuses, and never ignores.
A field that is null counts as left out.

Differs: `temperature` is 0 where a request does not say, not 1: the models answer questions about pictures, and are
never left to chance unless asked to be.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from phantrol.serving.errors import Refusal

MAX_NAME = 120  # characters of a field's name that an error repeats: it may be the client's own invention
MAX_STOP = 200  # characters of a stop string
MAX_KEYS = 100_000  # of a body, counted before it is parsed, which takes more than a second for two million
MAX_FIELDS = 64  # of an object: pydantic tells of each unknown one, which takes seconds and gigabytes for a million
MAX_METADATA = 16  # entries, as OpenAI has it
NOT_DONE = {"tools", "tool_choice", "tool_calls", "function_call", "response_format", "modalities", "audio", "refusal"}
NOT_DONE |= {"frequency_penalty", "presence_penalty", "logit_bias", "store", "functions", "prediction", "verbosity"}
NOT_DONE |= {"reasoning_effort", "web_search_options", "moderation", "prompt_cache_options", "prompt_cache_retention"}
EXPECTED = {  # by a field's name and pydantic's word for what is wrong with it
    ("image_url", "model_type"): 'expected {"url": "data:image/png;base64,..."}',
    ("role", "literal_error"): "expected system, developer, user or assistant; this server has no tools",
    ("content", "list_type"): "expected text, or a list of parts",
    ("stop", "list_type"): "expected a string, or up to 4 in a list",
    ("annotations", "too_long"): "this server makes none: expected an empty list",
}
SWITCHES = {
    "stream_options": "stream",
    "top_logprobs": "logprobs",
}  # a field, and what it means nothing without

Request = TypeVar("Request", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _fields_are_few(cls, given: Any) -> Any:
        given = _no_more(given, MAX_FIELDS, "fields")
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given


class ImageUrl(_Strict):
    """`detail` is accepted, and makes no difference: the model's own tiling decides."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    tool_calls: list[Any] | None = Field(default=None, max_length=0)  # first: it is the fault where content is null
    content: str | Annotated[list[Part], Field(min_length=1, fail_fast=True)]
    name: str | None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)  # what clients send back of an earlier answer

    @model_validator(mode="after")
    def _pictures_are_a_user_s(self) -> Message:
        parts = () if self.role == "user" or isinstance(self.content, str) else self.content
        if any(isinstance(part, ImagePart) for part in parts):
            raise ValueError(f"a message of role {self.role!r} shows a picture: expected in a user's message alone")
        return self


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # accepted: nothing is obfuscated


class ResponseFormat(_Strict):
    type: Literal["text"]


class ChatRequest(_Strict):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    # accepted where they ask for nothing that is not done anyway
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(default=None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    logit_bias: dict[str, Any] | None = Field(default=None, max_length=0)
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    store: Literal[False] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _metadata_are_few(cls, given: Any) -> Any:
        return _no_more(given, MAX_METADATA, "entries")

    @field_validator("stop")
    @classmethod
    def _stops_are_few_and_short(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 4 or any(not 1 <= len(each) <= MAX_STOP for each in stops):
            raise ValueError(f"expected at most 4 strings of 1 to {MAX_STOP} characters")
        return stop

    @field_validator(*SWITCHES)
    @classmethod
    def _is_switched_on(cls, given: Any, info: ValidationInfo) -> Any:
        switch = SWITCHES[info.field_name]
        if not info.data.get(switch):  # of the fields above, but those at fault
            raise ValueError(f"without {switch}: expected {switch}=true")
        return given

    @field_validator("max_completion_tokens")
    @classmethod
    def _is_one_limit(cls, given: Any, info: ValidationInfo) -> Any:
        if info.data.get("max_tokens") not in (None, given):
            raise ValueError("differs from max_tokens: expected one of them")
        return given

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def answer_tokens(self) -> int | None:
        """How long an answer may be, under either of its names."""
        return self.max_completion_tokens or self.max_tokens


class ConversationRequest(_Strict):
    """Whatever else is asked about a conversation: its messages, and the name of the model if one likes."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]


def parse(kind: type[Request], body: bytes) -> Request:
    """Return the request in a body. Raises Refusal (400), naming the first field that is wrong."""
    if body.count(b'"') > 2 * MAX_KEYS and body.count(b":") > MAX_KEYS:  # a text may have many of one of them
        raise Refusal(400, f"the body has too many fields: expected at most {MAX_KEYS:,}", code="limit_exceeded")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply", code="invalid_json") from None
    first = errors[0]
    if len(errors) > 1 and first["type"] == "string_type" and _place(first["loc"]) != first["loc"]:
        first = errors[1]  # no text, where a list may stand too: what is wrong with the list, or that it is none
    if first["type"] == "json_invalid":
        raise Refusal(400, f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    place = _place(first["loc"])
    where = ".".join(map(str, place))[:MAX_NAME] or None
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        what, code = "this field is missing", "missing_required_parameter"
    elif NOT_DONE.intersection(place):  # pydantic would tell which empty value may stand there
        what, code = "this server does not do this: leave it out", "unsupported_parameter"
    elif (*place[-1:], first["type"]) in EXPECTED:
        what, code = EXPECTED[*place[-1:], first["type"]], "invalid_value"
    elif first["type"] == "extra_forbidden":
        what, code = "this server does not know this field", "unknown_parameter"
    elif first["type"].startswith("union_tag_"):  # pydantic would repeat whatever stands there
        what, code = "expected a part of type text or image_url", "invalid_value"
    else:
        code = "invalid_value"
    raise Refusal(400, f"{where}: {what}" if where else what, param=where, code=code)


def _no_more(given: Any, most: int, what: str) -> Any:
    """Return what was given, unless it is an object of too many members: told before any of them is looked at."""
    if isinstance(given, dict) and len(given) > most:
        raise ValueError(f"{len(given)} {what}: expected at most {most}")
    return given


def _place(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return where a field stands. Left out is what pydantic adds: text or list where both may stand, a part's kind."""
    if loc[:1] == ("messages",) and loc[2:3] == ("content",):
        return (*loc[:3], *loc[4:5], *loc[6:])
    return (*loc[:1], *loc[2:]) if loc[:1] == ("stop",) else loc
