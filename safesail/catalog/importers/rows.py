"""What importers share: rows of other people's files as records, checked, with one line that says what is wrong."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    field_validator,
    model_validator,
)

from safesail.domain.pieces import spell_tokens
from safesail.domain.text import text_fault
from safesail.errors import DataError

MAX_TEXT = 20_000
"""Characters that an explanation may have."""

_WORDS = {
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": "must be a number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "extra_forbidden": "is no field of this format",
}


class FileRow(BaseModel):
    """A row of somebody's file; fields that are not named are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    @classmethod
    def read(cls, value: Any, where: str) -> Self:
        """Check `value`.

        Raises:
            DataError: the first thing that is wrong with it.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            # Parts with brackets name a branch of a union, which says nothing to the reader.
            field = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
            words = _WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
            raise DataError(f"{where}: {field} {words}" if field else f"{where} {words}") from error


def files_of(source: Path, pattern: str) -> list[Path]:
    """`source`, or the files in the folder `source` that match the pattern.

    Raises:
        DataError: there is none.
    """
    files = [source] if source.is_file() else sorted(source.glob(pattern))
    if not files:
        raise DataError(f"{source} holds no {pattern.removeprefix('**/')}")
    return files


def parse_index(cell: Any) -> int | None:
    """The index of a feature, given as a number or its digits; None where it is neither."""
    text = str(cell)
    sound = isinstance(cell, int | str) and text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if sound else None


def _index(cell: Any) -> int:
    index = parse_index(cell)
    if index is None:
        raise ValueError(f"must be a number from 0, not {str(cell)[:40]!r}")
    return index


def _sound_text(text: str) -> str:
    fault = text_fault(text, MAX_TEXT)
    if fault is not None:
        raise ValueError(f"cannot be taken: {fault}")
    return text


def _density(share: float | None) -> float | None:
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"must lie in [0, 1], not {share}")
    return share


Index = Annotated[int, BeforeValidator(_index)]
Text = Annotated[str, AfterValidator(_sound_text)]
Density = Annotated[float | None, AfterValidator(_density)]


class WindowRow(FileRow):
    """A window with an activation at each of its tokens."""

    tokens: list[Text]
    values: list[float]

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.tokens) != len(self.values):
            raise ValueError(f"has {len(self.tokens)} tokens but {len(self.values)} values")
        return self

    @field_validator("tokens", mode="after")
    @classmethod
    def _spelled(cls, tokens: list[str]) -> list[str]:
        return spell_tokens(tokens)
