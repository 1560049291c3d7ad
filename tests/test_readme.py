"""README is true: its commands exist as written, and those with an output give that output on the demo's store.

In a `console` block, what follows `$ command` is its output. `…` stands for anything within a line, or alone for any
lines. Numbers may differ in the last places, as they do from one processor to another; everything else must not.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from safesail.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = ROOT / "runs" / "demo"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MAX_WORDS = 1500


def blocks(*kinds: str) -> Iterator[str]:
    for kind, body in re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        if kind in kinds:
            yield body


def examples() -> list[tuple[str, str]]:
    """Commands with the outputs that README shows."""
    parts = [
        part for body in blocks("console") for part in re.split(r"^\$ ", body, flags=re.MULTILINE) if part
    ]
    pairs: list[tuple[str, str]] = []
    for part in parts:
        command, _, output = re.sub(r"\\\n\s*", "", part).partition("\n")
        pairs.append((command, output))
    return pairs


def commands() -> list[str]:
    """Every `safesail` command of README, wherever it stands in a line."""
    text = "\n".join([*(re.sub(r"\\\n\s*", "", body) for body in blocks("sh")), *(c for c, _ in examples())])
    return [
        re.split(r"\s[|#>](?:\s|$)", match[1])[0].strip()
        for line in text.splitlines()
        if (match := re.search(r"(?:^|[|;] )(safesail .*)", line))
    ]


def differs(line: str, true: str) -> bool:
    """Whether a line of README is not the true line, numbers compared to two figures or .02."""
    parts = [re.split(f"({NUMBER.pattern})", part) for part in line.split("…")]
    pattern = ".*?".join(
        "".join(f"({NUMBER.pattern})" if i % 2 else re.escape(p) for i, p in enumerate(part))
        for part in parts
    )
    match = re.fullmatch(re.sub(r"(?:\\ )+", r"\\s+", pattern), true.rstrip())
    if match is None:
        return True
    told = [float(n.replace(",", "")) for part in parts for n in part[1::2]]
    given = [float(n.replace(",", "")) for n in match.groups()]
    return any(abs(a - b) > max(0.02, 0.02 * abs(b)) for a, b in zip(told, given, strict=True))


def first_difference(told: str, true: str) -> str | None:
    """What README says and the command does not; lines may be left out only where README has `…`."""
    lines, left = [line.rstrip() for line in told.rstrip().splitlines()], true.rstrip().splitlines()
    skipping = False
    for line in lines:
        if line == "…":
            skipping = True
            continue
        while skipping and left and differs(line, left[0]):
            left.pop(0)
        if not left or differs(line, left[0]):
            return f"README: {line}\ntrue:   {left[0] if left else '(nothing more)'}"
        left.pop(0)
        skipping = False
    return None if skipping or not left else f"README ends before: {left[0]}"


def test_lines_are_compared_as_said() -> None:
    assert first_difference("a 0.770\n…\nz\n", "a 0.77\nb\nc\nz\n") is None
    assert first_difference("sha … 95 rows", "sha 9af3 95 rows") is None
    assert first_difference("a … 95  …  no", "a 2026-12-01 95 0.31 no") is None
    assert first_difference("a 0.70\n", "a 0.77\n") is not None
    assert first_difference("a\n", "a\nb\n") == "README ends before: b"
    assert first_difference("a\nb\n", "a\n") == "README: b\ntrue:   (nothing more)"


def test_readme_is_short() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) < MAX_WORDS


def test_files_that_readme_names_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    named = [word for command in commands() for word in command.split() if word.startswith("data/")]
    assert links and named
    for path in [*links, *named]:
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("command", commands())
def test_commands_of_readme_are_understood(command: str) -> None:
    """Names, options and values are those of the command line; nothing is run."""
    words, found = shlex.split(command)[1:], cli
    context = click.Context(cli, info_name="safesail")
    while isinstance(found, click.Group) and words:
        name, found, words = found.resolve_command(context, words)
        assert found is not None, name
    assert not isinstance(found, click.Group) or not words
    if words:
        found.make_context(words[0], words, parent=context)


@pytest.mark.parametrize(("command", "output"), examples())
def test_commands_of_readme_give_what_it_shows(command: str, output: str, tmp_path: Path) -> None:
    if not (DEMO / "summary.json").is_file():
        if os.environ.get("SAFESAIL_REQUIRE_DEMO"):
            pytest.fail("runs/demo is not there; run `make demo` first")
        pytest.skip("shows the demo's store; run `make demo` first")
    shutil.copytree(DEMO, tmp_path / "runs" / "demo")
    (tmp_path / "data").symlink_to(ROOT / "data")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SAFESAIL_STORE": "runs/demo/safesail.duckdb",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert first_difference(output, done.stdout) is None, done.stdout
