"""Any OpenAI-compatible endpoint: one attempt a call; retries, cache and budget are `metered`'s."""

import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from safesail.errors import LLMUnavailableError, RefusedAnswerError, TransientLLMError
from safesail.llm.address import check_address
from safesail.llm.types import LLMAnswer, LLMRequest

TIMEOUT = 120.0
"""Seconds for one attempt."""

_MESSAGE_OVERHEAD = 64
"""Tokens that chat templates add, generously."""

_SHORTEST_KEY = 8
"""Characters; anything shorter is no secret and may be a word, such as the `none` of servers without keys."""

_REASONING = ("o1", "o3", "o4", "gpt-5")
"""Beginnings of names of models that take no temperature and want `max_completion_tokens`."""


class OpenAIClient:
    """A model at an OpenAI-compatible endpoint. The key goes into the header and nowhere else."""

    def __init__(self, base_url: str, api_key: str, model: str, *, timeout: float = TIMEOUT) -> None:
        check_address(base_url)
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=0)
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
        prompt = len(request.system.encode()) + len(request.prompt.encode()) + _MESSAGE_OVERHEAD
        return prompt + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """One attempt.

        Raises:
            TransientLLMError: 408, 409, 429, 5xx, a timeout or a broken connection.
            LLMUnavailableError: out of credit, a refused key, an unknown model: trying again does not help.
            RefusedAnswerError: the endpoint refuses this one request.
        """
        arguments = self._arguments(request)
        try:
            reply = await self._client.chat.completions.create(**arguments)
        except openai.BadRequestError as error:
            # What this request held counts: of several under way, another may have been refused first.
            if "response_format" in arguments and "response_format" in str(error):
                self._structured = False  # the server has no structured answers: the strict parser reads text
                raise TransientLLMError(
                    "no structured answers here", maybe_billed=False, retry_after=0.0
                ) from error
            raise _bad_request(error) from error
        except openai.APIStatusError as error:
            raise _status_error(error) from error
        except openai.APITimeoutError as error:
            raise TransientLLMError("no answer in time", maybe_billed=True) from error
        except openai.APIConnectionError as error:
            raise TransientLLMError("the connection broke", maybe_billed=True) from error
        except (json.JSONDecodeError, openai.APIResponseValidationError) as error:
            raise TransientLLMError("the endpoint's reply is not JSON", maybe_billed=True) from error
        return _answer(reply, request, self.worst_case(request))

    def _arguments(self, request: LLMRequest) -> dict[str, Any]:
        messages = [
            {"role": "system", "content": request.system},
            {"role": "user", "content": request.prompt},
        ]
        arguments: dict[str, Any] = {"model": request.model, "messages": messages}
        arguments["max_completion_tokens" if self._reasons else "max_tokens"] = request.max_tokens
        if request.temperature is not None and not self._reasons:
            arguments["temperature"] = request.temperature
        if request.json_schema is not None and self._structured:
            schema = {"name": "answer", "schema": json.loads(request.json_schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        return arguments


def _answer(reply: Any, request: LLMRequest, worst_case: int) -> LLMAnswer:
    # The library checks nothing: a page of HTML arrives as text, and fields left out as None.
    if not isinstance(reply, ChatCompletion) or not reply.choices:
        raise TransientLLMError("the endpoint's reply holds no choice", maybe_billed=True)
    message: Any = reply.choices[0].message
    if message is None:
        raise TransientLLMError("the endpoint's reply holds no message", maybe_billed=True)
    text = message.content or ""
    finish = "content_filter" if message.refusal else str(reply.choices[0].finish_reason)
    usage: Any = reply.usage
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        # Nothing said: count what cannot be too little.
        return LLMAnswer(text, finish, worst_case - request.max_tokens, min(len(text.encode()), request.max_tokens),
                         "estimated")  # fmt: skip
    return LLMAnswer(text, finish, usage.prompt_tokens, usage.completion_tokens, "billed")


def _status_error(error: openai.APIStatusError) -> LLMUnavailableError | TransientLLMError:
    status, said = error.status_code, _said(error)
    if "insufficient_quota" in said or status in (401, 402, 403, 404):
        return LLMUnavailableError(
            f"the endpoint answered {status}: {said}; check key, credit and model name"
        )
    if status in (408, 409, 429) or status >= 500:
        wait = _retry_after(error.response.headers.get("retry-after"))
        return TransientLLMError(f"the endpoint answered {status}", maybe_billed=False, retry_after=wait)
    return LLMUnavailableError(f"the endpoint answered {status}: {said}")


def _bad_request(error: openai.BadRequestError) -> RefusedAnswerError | LLMUnavailableError:
    said = _said(error)
    if "content" in said and ("filter" in said or "policy" in said):
        return RefusedAnswerError(f"the endpoint refused the request: {said}")
    return LLMUnavailableError(f"the endpoint answered 400: {said}")


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, short, and never a key that it may repeat."""
    body: Any = error.body
    said = body.get("message") or body.get("code") if isinstance(body, dict) else None
    code = body.get("code") if isinstance(body, dict) else None
    words = " ".join(f"{code or ''} {said or ''}".split())
    key = error.request.headers.get("authorization", "").removeprefix("Bearer ")
    if len(key) >= _SHORTEST_KEY:
        words = words.replace(key, "***")
    return " ".join(
        "***" if word.lstrip("\"'(=:").startswith("sk-") or "***" in word else word
        for word in words[:160].split()
    )


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
    except ValueError:
        return None
