"""What a chat template puts before the user's text."""

from safesail.harvest.config import HarvestConfig
from safesail.subject.chat import round_text
from safesail.subject.protocol import Subject


def chat_prefix(subject: Subject, config: HarvestConfig) -> tuple[int, ...]:
    """Token ids from the template's start up to the user's text, without the model's own special tokens.

    None where no template is asked for.
    The model is causal: what the template puts after the text cannot reach the text's activations, and is left out.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that does not show the text.
    """
    if not config.chat_template:
        return ()
    before, _ = round_text(subject.tokenizer, answer=False)
    token_ids = tuple(subject.tokenizer.encode(before, add_special_tokens=False))
    special = subject.prefix
    return token_ids[len(special) :] if token_ids[: len(special)] == special else token_ids
