"""The one check between an endpoint's reply and everything else: whole, before it counts as an answer."""

import json
import re
from typing import Any, Literal, cast

from safesail.domain.text import clean_text, text_fault
from safesail.errors import TransientLLMError, UnparsableAnswerError
from safesail.llm.types import LLMAnswer, LLMRequest

MAX_CHARACTERS = 1_000_000
"""Of an answer."""

MAX_TOKENS = 100_000_000
"""That an endpoint may say one call took; more than any takes."""

BYTES_PER_TOKEN = 8
"""More than tokenizers in use reach on prompts like ours (4 to 5 on English): fewer tokens are not believed."""

_FINISH = re.compile(r"[\w-]{1,40}", re.ASCII)


def read_reply(body: bytes, request: LLMRequest, worst_case: int) -> LLMAnswer:
    """The answer in the body of a successful reply.

    Args:
        body: Of the HTTP response, unpacked.
        request: What was asked.
        worst_case: Tokens that count where the reply does not say how many it took.

    Raises:
        TransientLLMError: it is not JSON, or reports an error: another attempt may fare better.
        UnparsableAnswerError: it is JSON, but no chat completion; it counts at its worst case.
    """
    try:
        reply = _json(body)
        text, finish = _answer(reply)
    except UnparsableAnswerError as fault:
        fault.tokens = worst_case
        raise
    return LLMAnswer(text, finish, *_usage(reply, request, text, worst_case))


def prompt_bytes(request: LLMRequest) -> int:
    """Bytes that are billed as the prompt: the messages, and the schema of the answer."""
    texts = (request.system, request.prompt, request.json_schema or "")
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def _json(body: bytes) -> dict[str, Any]:
    try:
        reply: object = json.loads(body.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise TransientLLMError("the endpoint's reply is not JSON", maybe_billed=True) from None
    except (RecursionError, ValueError):
        raise UnparsableAnswerError(
            "the endpoint's reply is nested too deeply, or has too long a number"
        ) from None
    if not isinstance(reply, dict):
        raise UnparsableAnswerError(f"the endpoint's reply is no object: {_kind(reply)}")
    fields = cast("dict[str, Any]", reply)
    if fields.get("error") and not fields.get("choices"):
        raise TransientLLMError(
            "the endpoint's reply is an error in the place of an answer", maybe_billed=True
        )
    return fields


def _answer(reply: dict[str, Any]) -> tuple[str, str]:
    """The text, and why it ended."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UnparsableAnswerError(f"the endpoint's reply has no list of choices: {_kind(choices)}")
    choice = _object(cast("list[Any]", choices)[0], "choice")
    message = _object(choice.get("message"), "message")
    content = message.get("content")
    content = "" if content is None else content
    if not isinstance(content, str):
        raise UnparsableAnswerError(f"the answer's content is no text: {_kind(content)}")
    if (fault := text_fault(content, MAX_CHARACTERS)) is not None:
        raise UnparsableAnswerError(f"the answer's text cannot be taken: {fault}")
    finish = choice.get("finish_reason")
    if message.get("refusal"):
        finish = "content_filter"
    known = isinstance(finish, str) and _FINISH.fullmatch(finish)
    return clean_text(content), str(finish) if known else "unknown"


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnparsableAnswerError(f"the endpoint's reply has a {name} that is no object: {_kind(value)}")
    return cast("dict[str, Any]", value)


def _usage(
    reply: dict[str, Any], request: LLMRequest, text: str, worst_case: int
) -> tuple[int, int, Literal["billed", "estimated", "floor"]]:
    """Tokens in and out as the endpoint counts them, or at least as many as the bytes must take."""
    usage: Any = reply.get("usage")
    said = cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}
    n_prompt, n_completion, n_total = (
        _count(said.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if not n_prompt or n_completion is None:
        # Nothing said, or what cannot be: count what cannot be too little.
        return worst_case - request.max_tokens, request.max_tokens, "estimated"
    # Some endpoints leave reasoning out of the completion, and count it in the total only.
    billed = n_prompt, max(n_completion, (n_total or 0) - n_prompt)
    least = prompt_bytes(request) // BYTES_PER_TOKEN, len(text.encode()) // BYTES_PER_TOKEN
    booked = max(billed[0], least[0]), max(billed[1], least[1])
    return *booked, "billed" if booked == billed else "floor"


def _count(value: object) -> int | None:
    """A number of tokens; None for what is none, such as `true`, -1 or 10**30."""
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _kind(value: object) -> str:
    """What a JSON value is."""
    kinds: dict[type, str] = {
        dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "missing"
    }  # fmt: skip
    return kinds.get(type(value), "a number")
