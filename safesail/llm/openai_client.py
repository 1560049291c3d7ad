"""Any OpenAI-compatible endpoint: one attempt a call; retries, cache and budget are `metered`'s."""

import json
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from safesail.errors import LLMUnavailableError, RefusedAnswerError, TransientLLMError
from safesail.llm.address import check_address
from safesail.llm.types import LLMAnswer, LLMRequest

TIMEOUT = 120.0
"""Seconds for one attempt."""

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
            default_headers={"Connection": "close"},
        )
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
        schema = request.json_schema or ""  # billed as part of the prompt
        n_bytes = sum(
            len(text.encode("utf-8", "replace")) for text in (request.system, request.prompt, schema)
        )
        return n_bytes + _MESSAGE_OVERHEAD + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """One attempt.

        Raises:
            TransientLLMError: 408, 409, 429, 5xx, a timeout, a broken connection, or a reply that is not one.
            LLMUnavailableError: out of credit, a refused key, an unknown model: trying again does not help.
            RefusedAnswerError: the endpoint refuses this one request.
        """
        arguments = self._arguments(request)
        # `from None`: the library's errors quote the server's reply, which may repeat the key.
        try:
            reply = await self._client.chat.completions.create(**arguments)
        except openai.APIStatusError as error:
            if self._adapts(arguments, error):
                raise TransientLLMError(
                    "the endpoint takes fewer settings", maybe_billed=False, retry_after=0.0
                ) from None
            raise _status_error(error) from None
        except openai.APIConnectionError as error:  # a timeout is one too
            late = isinstance(error, openai.APITimeoutError)
            raise TransientLLMError(
                "no answer in time" if late else "the connection broke", maybe_billed=_was_sent(error)
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, openai.APIResponseValidationError):
            raise TransientLLMError("the endpoint's reply is not JSON", maybe_billed=True) from None
        answer = _answer(reply, request, self.worst_case(request))
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


def _answer(reply: Any, request: LLMRequest, worst_case: int) -> LLMAnswer:
    # The library checks nothing: a page of HTML arrives as text, and fields left out as None.
    if not isinstance(reply, ChatCompletion) or not reply.choices:
        raise TransientLLMError("the endpoint's reply holds no choice", maybe_billed=True)
    message: Any = reply.choices[0].message
    if message is None:
        raise TransientLLMError("the endpoint's reply holds no message", maybe_billed=True)
    # A cut answer may end in half a surrogate pair, which no file and no database takes.
    text = (message.content or "").encode("utf-8", "replace").decode("utf-8")
    finish = "content_filter" if message.refusal else str(reply.choices[0].finish_reason or "unknown")
    counted = _counted(reply.usage)
    if counted is None:
        # Nothing said: count what cannot be too little.
        return LLMAnswer(text, finish, worst_case - request.max_tokens, request.max_tokens, "estimated")
    return LLMAnswer(text, finish, *counted, "billed")


def _counted(usage: Any) -> tuple[int, int] | None:
    """Tokens in and out as the endpoint counts them; None where it does not say, or says what cannot be."""
    found = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    n_prompt, n_completion, n_total = found
    if not isinstance(n_prompt, int) or not isinstance(n_completion, int) or n_prompt < 1 or n_completion < 0:
        return None
    # Some endpoints leave reasoning out of the completion, and count it in the total only.
    n_rest = n_total - n_prompt if isinstance(n_total, int) else 0
    return n_prompt, max(n_completion, n_rest)


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
    words = " ".join(f"{code or ''} {said or ''}".split())
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
