"""What a chat template puts before the user's text."""

from safesail.errors import ConfigError
from safesail.harvest.config import HarvestConfig
from safesail.subject.protocol import Subject

_TEXT = "safesail-text-goes-here"


def chat_prefix(subject: Subject, config: HarvestConfig) -> tuple[int, ...]:
    """Token ids from the template's start up to the user's text, without the model's own special tokens.

    None where no template is asked for.
    The model is causal: what the template puts after the text cannot reach the text's activations, and is left out.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that does not show the text.
    """
    if not config.chat_template:
        return ()
    tokenizer = subject.tokenizer
    if not tokenizer.chat_template:
        raise ConfigError("this model's tokenizer has no chat template; harvest without chat_template")
    chat = [{"role": "user", "content": _TEXT}]
    rendered = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False))
    before, text, _ = rendered.partition(_TEXT)
    if not text:
        raise ConfigError("the chat template does not show the text as it is; harvest without chat_template")
    token_ids = tuple(tokenizer.encode(before, add_special_tokens=False))
    special = subject.prefix
    return token_ids[len(special) :] if token_ids[: len(special)] == special else token_ids
