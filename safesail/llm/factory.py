"""From a model's name to a chat client."""

import os
from collections.abc import Callable

from safesail.errors import ConfigError
from safesail.llm.address import check_address, check_key, is_loopback
from safesail.llm.embedding import Embed
from safesail.llm.types import ChatClient

BUILT_IN = "lexical"
EMBEDDING = "embedding"
"""The built-in simulator that goes by meaning; it cannot explain."""

OPENAI = "https://api.openai.com/v1"


def make_client(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    load_embed: Callable[[], Embed] | None = None,
) -> ChatClient:
    """A built-in model where `name` is `lexical` or `embedding`, else a model at an OpenAI-compatible endpoint.

    Args:
        name: Model's name, as the endpoint knows it.
        base_url: None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes OPENAI_API_KEY; servers on this machine need none.
        load_embed: Loads what makes vectors of texts, for `embedding`: this package runs without torch.

    Raises:
        ConfigError: the endpoint needs a key and none is set, or key or address is none.
    """
    if name == BUILT_IN:
        from safesail.llm.lexical import LexicalModel

        return LexicalModel()
    if name == EMBEDDING:
        from safesail.llm.embedding import EmbeddingModel

        if load_embed is None:
            raise ConfigError(f"the model {EMBEDDING!r} needs vectors of texts, which nothing here makes")
        return EmbeddingModel(load_embed())
    from safesail.llm.openai_client import OpenAIClient

    url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    check_address(url)
    key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
    check_key(key)
    if not key and not is_loopback(url):
        raise ConfigError(
            f"{url} needs a key; set OPENAI_API_KEY, or name an OpenAI-compatible endpoint on this machine with"
            f" --base-url or OPENAI_BASE_URL. The built-in {BUILT_IN!r} needs neither, but cannot write pairs"
        )
    return OpenAIClient(url, key or "none", name)
