"""What a chat template puts before the user's text."""

from typing import Any

from safesail.errors import ConfigError

_PLACE = "safesail-text-goes-here"


def opening(tokenizer: Any, *, special: tuple[int, ...]) -> tuple[int, ...]:
    """Token ids from the template's start up to the user's text, without a BOS.

    The model is causal: what the template puts after the text cannot reach the text's activations, and is left out.

    Args:
        tokenizer: A Hugging Face tokenizer.
        special: Tokens that the subject model puts before every row by itself.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that does not show the text.
    """
    if not tokenizer.chat_template:
        raise ConfigError("this model's tokenizer has no chat template; harvest without chat_template")
    chat = [{"role": "user", "content": _PLACE}]
    rendered: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)
    before, found, _ = rendered.partition(_PLACE)
    if not found:
        raise ConfigError("the chat template does not show the text as it is; harvest without chat_template")
    token_ids = tuple(tokenizer.encode(before, add_special_tokens=False))
    return token_ids[len(special) :] if token_ids[: len(special)] == special else token_ids
