"""One word means one thing, and the field's own word is used: what must not come back into names and prose."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "safesail"

NAMES = {
    r"[Pp]urse": "BudgetTracker",
    r"(near_)?alike|near_identical": "near_duplicates",
    r"worthwhile": "rank_candidates",
    r"[Bb]ought": "RunReport",
    r"Asked|asked_for|Wanted": "...Options",
    r"own_prompts?|OwnPrompt": "builtin_prompts",
    r"\w+_A_\w+": "..._PER_...",
    r"places?": "position, offset, key, rank",
    r"Machine": "ModelConfig",
    r"Edge|Streams": "ModuleBoundary, BatchWorkers",
    r"opening(_of)?": "chat_prefix",
    r"found|taken|thing|things": "what was found or taken",
    r"money|worth": "tokens, cost, value",
    r"isolation": "pair_isolation",
}
"""Whole identifiers, as patterns, and what to write instead."""

PROSE = {
    r"\b(tokens?|bytes?|windows?|calls?|features?|rows?|values?|nonzeros?|seconds?|lines?|columns?|pairs?|files?"
    r"|vectors?|shards?|numbers?|activations?|strings?|labels?|text|batch|entry|record|worker|GPU actor)"
    r" an? (token|byte|window|call|feature|row|value|nonzero|line|column|pair|file|vector|shard|text|core|concept"
    r"|SAE|domain|document|side|unit|hook|layer|worker|label|key|SAE and)\b": "per",
    r"\bpurse\b": "budget",
    r"\bmoney (goes|is spent)\b": "tokens, or the cost",
    r"\bworthwhile\b": "say what is gained",
    r"\bwhat stands there\b": "say what it is",
    r"\bhouse\b": "project, or package",
    r"\bdialect\b": "say which words",
}
"""Phrases in docstrings, comments, help texts and READMEs, and what to write instead."""


def rooms() -> list[str]:
    return sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")} | {"README.md"})


def files(room: str) -> list[Path]:
    if room == "README.md":
        return [PACKAGE.parent / "README.md"]
    path = PACKAGE / room
    if path.is_file():
        return [path]
    return [*sorted(path.rglob("*.py")), *sorted(path.rglob("*.md"))]


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that the file gives to something, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case _:
                pass


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every comment and docstring of a module, or all of a README but its code, with its line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.startswith("```")
            if not fenced:
                yield number, line
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (
            tokenize.COMMENT,
            tokenize.STRING,
            getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING),
        ):
            yield token.start[0], " ".join(token.string.split())


def faults(path: Path) -> Iterator[str]:
    where = path.relative_to(PACKAGE.parent)
    if path.suffix == ".py":
        for line, name in names_of(ast.parse(path.read_text(encoding="utf-8"))):
            for pattern, better in NAMES.items():
                if re.fullmatch(rf"_?{pattern}", name):
                    yield f"{where}:{line}: the name {name!r}; better: {better}"
    for line, text in prose_of(path):
        for pattern, better in PROSE.items():
            if match := re.search(pattern, text):
                yield f"{where}:{line}: {match[0]!r}; better: {better}"


@pytest.mark.parametrize("room", rooms())
def test_words_that_must_not_come_back(room: str) -> None:
    faulty = [fault for path in files(room) for fault in faults(path)]
    if faulty:
        pytest.fail("\n".join(faulty))
