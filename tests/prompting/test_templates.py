import hashlib
import os
from pathlib import Path
from typing import Any

import jinja2
import pytest

from safesail.errors import ConfigError
from safesail.prompting.templates import load_template, parse_template
from safesail.resources import resource_dir

GOLDEN = Path(__file__).parent / "golden"

TEXTS = [("A", ["The cat", "sat."]), ("B", ["Dogs bark."])]
WHOLE = [("A", "The cat sat."), ("B", "Dogs bark.")]
SEGMENTS: dict[str, Any] = {"explanation": "Fires on cats.", "texts": TEXTS}
EXPLAIN: dict[str, Any] = {
    "active": ["The <<cat|9>> sat."],
    "controls": ["Dogs bark."],
    "hint": None,
    "max_words": 60,
}
PAIRS: dict[str, Any] = {
    "name": "bribery", "definition": "Paying an official for a favour.", "n": 2, "language": "English",
    "forms": "1 statement, 1 question",
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "simulate/intruder_v1": {
        "groups": [
            [("A", "The <<cat>> sat."), ("B", "A <<cat>> ran.")],
            [("A", "<<Dogs>> bark."), ("B", "No <<dog>>.")],
        ]
    },
    "concepts/generate_v1": PAIRS | {"worn": [], "kept": []},
    "concepts/generate_v1 again": PAIRS | {"worn": ["bribe", "paid"], "kept": ["The clerk took gifts."]},
    "explain/v1": EXPLAIN | {"tags": ["weapons", "insult"]},
    "explain/v1 bare": EXPLAIN | {"controls": [], "hint": "war", "tags": [], "max_words": 9},
    "explain/text_v1": EXPLAIN,
    "explain/several_v1": {
        "features": [EXPLAIN, EXPLAIN | {"controls": [], "hint": "war"}],
        "tags": ["weapons", "insult"],
        "max_words": 40,
    },
    "simulate/detection_v1": {"explanation": "Fires on cats.", "texts": WHOLE},
    "simulate/fuzzing_v1": {
        "explanation": "Fires on cats.",
        "texts": [("A", "The <<cat>> sat."), ("B", "Dogs <<bark>>.")],
    },
    "simulate/pooled_v1": {"explanations": ["Fires on cats.", "Fires on dogs."], "texts": TEXTS, "most": 12},
    "simulate/segment_v1": SEGMENTS | {"form": "active graded"},
    "simulate/segment_v1 active binary": SEGMENTS | {"form": "active binary"},
    "simulate/segment_v1 list graded": SEGMENTS | {"form": "list graded"},
    "simulate/segment_v1 list binary": SEGMENTS | {"form": "list binary"},
    "simulate/token_v1": {"explanation": "Fires on cats.", "tokens": '["The", " cat"]'},
}
"""Values for every template, by its name and, after a space, the case."""


def all_templates() -> list[Path]:
    return sorted(resource_dir("prompts").glob("*/*.j2"))


def test_hash_is_of_the_files_bytes() -> None:
    path = resource_dir("prompts") / "explain" / "v1.j2"
    assert load_template("explain", "v1").prompt_hash == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("path", all_templates(), ids=lambda p: p.stem)
def test_every_template_loads_and_its_first_line_says_what_it_asks(path: Path) -> None:
    template = load_template(path.parent.name, path.stem)
    assert template.name == f"{path.parent.name}/{path.stem}"
    assert path.read_text().startswith("{# Asks ")


@pytest.mark.parametrize("case", CASES)
def test_a_whole_prompt_is_as_reviewed(case: str) -> None:
    """To change a prompt on purpose, run the tests once with SAFESAIL_WRITE_GOLDEN=1 and review the diff."""
    rendered = load_template(*case.split(" ")[0].split("/")).render(**CASES[case])
    whole = f"{rendered.system}\n-----\n{rendered.prompt}\n"
    path = GOLDEN / f"{case.replace('/', '_').replace(' ', '_')}.txt"
    if os.environ.get("SAFESAIL_WRITE_GOLDEN"):
        path.write_text(whole, encoding="utf-8")
    assert whole == path.read_text(encoding="utf-8")


def test_every_template_has_a_golden_prompt() -> None:
    templates = {f"{path.parent.name}/{path.stem}" for path in all_templates()}
    assert {case.split(" ")[0] for case in CASES} == templates
    assert len(list(GOLDEN.iterdir())) == len(CASES)


def test_a_value_left_out_is_an_error_not_an_empty_text() -> None:
    with pytest.raises(jinja2.UndefinedError, match="explanation"):
        load_template("simulate", "token_v1").render(tokens="[]")


def test_unknown_template_names_those_that_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"no prompt template simulate/v9\.j2; there are: detection_v1, fuzz"
    ):
        load_template("simulate", "v9")


@pytest.mark.parametrize(
    ("text", "message"),
    [("no line here", "x/y: no line of five dashes"), ("a\n-----\n{% if %}", "x/y: line 1: ")],
)
def test_broken_template_is_a_one_line_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_template("x/y", text)
