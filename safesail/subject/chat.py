"""What a model's chat template puts round the user's text."""

from typing import Any

from safesail.errors import ConfigError

_TEXT = "safesail-text-goes-here"


def round_text(tokenizer: Any, *, answer: bool) -> tuple[str, str]:
    """What stands before and after the text of a first user turn.

    Args:
        tokenizer: A Hugging Face tokenizer.
        answer: End with what opens the model's own turn.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that does not show the text.
    """
    if not tokenizer.chat_template:
        raise ConfigError("this model's tokenizer has no chat template; leave the chat template out")
    chat = [{"role": "user", "content": _TEXT}]
    rendered = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=answer))
    before, text, after = rendered.partition(_TEXT)
    if not text:
        raise ConfigError("the chat template does not show the text as it is; leave the chat template out")
    return before, after
