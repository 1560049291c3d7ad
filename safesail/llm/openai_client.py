"""Any OpenAI-compatible endpoint: one attempt a call; retries, cache and budget are `metered`'s."""

import asyncio
import json
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from safesail.domain.text import clean_text
from safesail.errors import LLMUnavailableError, RefusedAnswerError, TransientLLMError, UnparsableAnswerError
from safesail.llm.address import check_address
from safesail.llm.http import make_http_client
from safesail.llm.reply import prompt_bytes, read_reply
from safesail.llm.types import LLMAnswer, LLMRequest

TIMEOUT = 120.0
"""Seconds for one attempt, from its first byte to its last."""

_MESSAGE_OVERHEAD = 128
"""Tokens that chat templates add of their own (role markers, today's date, default instructions), generously."""

_SHORTEST_KEY = 8
"""Characters; anything shorter is no secret and may be a word, such as the `none` of servers without keys."""

_REASONING = ("o1", "o3", "o4", "gpt-5")
"""Beginnings of names of models that take no temperature and want `max_completion_tokens`."""


class OpenAIClient:
    """A model at an OpenAI-compatible endpoint. The key goes into the header and nowhere else."""

    def __init__(self, base_url: str, api_key: str, model: str, *, timeout: float = TIMEOUT) -> None:
        check_address(base_url)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=0,
            # A connection kept open that the server drops meanwhile looks like one that broke after it was billed.
            default_headers={"Connection": "close", "Accept-Encoding": "gzip"},
            http_client=make_http_client(),
        )
        self._timeout = timeout
        self._endpoint = base_url.rstrip("/")
        self._reasons = model.rsplit("/", 1)[-1].startswith(_REASONING)
        self._structured = True

    @property
    def endpoint(self) -> str:
        """The base URL."""
        return self._endpoint

    def worst_case(self, request: LLMRequest) -> int:
        """Upper bound of the tokens billed for one attempt.

        No tokenizer in use gives more tokens than the text has bytes; the answer is bounded by `max_tokens`.
        """
        return prompt_bytes(request) + _MESSAGE_OVERHEAD + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """One attempt.

        Raises:
            TransientLLMError: 408, 409, 429, 5xx, a timeout, a broken connection, or a reply that is not JSON.
            LLMUnavailableError: out of credit, a refused key, an unknown model, a redirect: trying again does not
                help.
            RefusedAnswerError: the endpoint refuses this one request.
            UnparsableAnswerError: the reply is too large, or JSON in no form that an answer has.
        """
        arguments = self._arguments(request)
        # `from None`: the library's errors quote the server's reply, which may repeat the key.
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._client.chat.completions.with_raw_response.create(**arguments)
        except openai.APIStatusError as error:
            if self._adapts(arguments, error):
                raise TransientLLMError(
                    "the endpoint takes fewer settings", maybe_billed=False, retry_after=0.0
                ) from None
            raise _status_error(error) from None
        except TimeoutError:
            raise TransientLLMError("no answer in time", maybe_billed=True) from None
        except openai.APIConnectionError as error:  # a timeout is one too
            late = isinstance(error, openai.APITimeoutError)
            raise TransientLLMError(
                "no answer in time" if late else "the connection broke", maybe_billed=_was_sent(error)
            ) from None
        except UnparsableAnswerError as error:
            error.tokens = self.worst_case(request)
            raise
        answer = read_reply(reply.http_response.content, request, self.worst_case(request))
        return replace(answer, text=_hidden(answer.text, self._client.api_key))  # a proxy may echo the header

    def _arguments(self, request: LLMRequest) -> dict[str, Any]:
        messages = [{"role": "user", "content": request.prompt}]
        if request.system:
            messages.insert(0, {"role": "system", "content": request.system})
        arguments: dict[str, Any] = {"model": request.model, "messages": messages}
        arguments["max_completion_tokens" if self._reasons else "max_tokens"] = request.max_tokens
        if request.temperature is not None and not self._reasons:
            arguments["temperature"] = request.temperature
        if request.json_schema is not None and self._structured:
            schema = {"name": "answer", "schema": json.loads(request.json_schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        return arguments

    def _adapts(self, arguments: dict[str, Any], error: openai.APIStatusError) -> bool:
        """Whether the endpoint refused a setting that we can do without; from here on it is not sent.

        What this request held counts: of several under way, another may have been refused first.
        """
        if error.status_code not in (400, 422):
            return False
        if "response_format" in arguments and any(
            word in str(error) for word in ("response_format", "json_schema")
        ):
            self._structured = False  # the strict parser reads text
            return True
        # Only the server's own words: some servers repeat the whole request in their errors.
        said = f"{error.param or ''} {_words(error)}"
        if "max_tokens" in arguments and ("max_completion_tokens" in said or error.param == "temperature"):
            self._reasons = True
            return True
        return False


def _was_sent(error: openai.APIConnectionError) -> bool:
    """Whether the request may have reached the server: not where there was never a connection."""
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout", "PoolTimeout")


_GATEWAYS = (502, 504, *range(520, 528))
"""Statuses of gateways that lost the server behind them, which may have done the work and charged for it."""

_NO_CREDIT = ("insufficient_quota", "exceeded your current quota", "billing_hard_limit")


def _status_error(
    error: openai.APIStatusError,
) -> LLMUnavailableError | TransientLLMError | RefusedAnswerError:
    status, said = error.status_code, _said(error)
    if any(words in _words(error) for words in _NO_CREDIT):
        return LLMUnavailableError(f"the endpoint answered {status}: {said}; check its credit")
    if _about_this_request(status, _words(error)):
        return RefusedAnswerError(f"the endpoint refused the request: {status} {said}")
    if 300 <= status < 400:
        return LLMUnavailableError(
            f"the endpoint answered {status}, a redirect, which is not followed: prompts go to the address given alone;"
            " give the right one with --base-url"
        )
    if status in (408, 409, 429) or status >= 500:
        wait = _retry_after(error.response.headers.get("retry-after"))
        return TransientLLMError(
            f"the endpoint answered {status}", maybe_billed=status in _GATEWAYS, retry_after=wait
        )
    check = "; check key, credit and model name" if status in (401, 402, 403, 404) else ""
    return LLMUnavailableError(f"the endpoint answered {status}: {said}{check}")


def _about_this_request(status: int, words: str) -> bool:
    """Whether another request may fare better: this one's content was objected to, or it is too long."""
    if status == 413:
        return True
    filtered = ("content" in words and ("filter" in words or "policy" in words)) or "moderation" in words
    too_long = "context_length" in words or "context length" in words or "maximum context" in words
    return status in (400, 403, 422) and (filtered or too_long)


def _words(error: openai.APIStatusError) -> str:
    """Code and message of the server, in lower case; empty where its reply has neither."""
    body: Any = error.body
    if not isinstance(body, dict):
        return ""
    return " ".join(f"{body.get('code') or ''} {body.get('message') or ''}".lower().split())


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, short, and never a key that it may repeat."""
    body: Any = error.body
    said = body.get("message") or body.get("code") if isinstance(body, dict) else None
    code = body.get("code") if isinstance(body, dict) else None
    words = " ".join(clean_text(f"{code or ''} {said or ''}").encode("utf-8", "replace").decode().split())
    key = error.request.headers.get("authorization", "").removeprefix("Bearer ")
    return " ".join(
        "***" if word.lstrip("\"'(=:").startswith("sk-") or "***" in word else word
        for word in _hidden(words, key)[:160].split()
    )


def _hidden(text: str, key: str) -> str:
    return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


def _retry_after(text: str | None) -> float | None:
    """Seconds in a Retry-After header: a number, or a date."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
