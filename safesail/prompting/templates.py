"""Prompt templates: text files under `prompts/`, known by the hash of their content."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from safesail.errors import ConfigError
from safesail.resources import resource_dir

_LINE = "\n-----\n"


@dataclass(frozen=True)
class Rendered:
    """What is sent."""

    system: str
    prompt: str


@dataclass(frozen=True)
class Template:
    """A template of two parts: the system message and the question."""

    name: str
    """`<stage>/<name>`, e.g. `"explain/v1"`."""

    prompt_hash: str
    """SHA-256 of the file's text, in hex: stored beside every answer."""

    system: jinja2.Template
    prompt: jinja2.Template

    def render(self, **values: Any) -> Rendered:
        """Fill in both parts.

        Raises:
            jinja2.UndefinedError: the template uses a value that is not among `values`: our own bug.
        """
        return Rendered(self.system.render(values).strip(), self.prompt.render(values).strip())


@cache
def load_template(stage: str, name: str) -> Template:
    """The template `prompts/<stage>/<name>.j2`.

    Raises:
        ConfigError: there is no such template, or it lacks the line of dashes between its parts.
    """
    folder = resource_dir("prompts")
    path = folder / stage / f"{name}.j2"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (folder / stage).glob("*.j2"))) or "none"
        raise ConfigError(f"no prompt template {stage}/{name}.j2; there are: {known}")
    return parse_template(f"{stage}/{name}", path.read_text(encoding="utf-8"))


def parse_template(name: str, text: str) -> Template:
    """A template from its text.

    Raises:
        ConfigError: it lacks the line of dashes between system message and question, or is not Jinja.
    """
    system, line, prompt = text.partition(_LINE)
    if not line:
        raise ConfigError(
            f"prompt template {name}: no line of five dashes between system message and question"
        )
    # autoescape is for HTML; `safe_text` of marking.py is what keeps texts inside their fence.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        parts = environment.from_string(system), environment.from_string(prompt)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"prompt template {name}: line {error.lineno}: {error.message}") from error
    return Template(name, hashlib.sha256(text.encode()).hexdigest(), *parts)
