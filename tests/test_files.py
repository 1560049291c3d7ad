"""Files and folders that appear whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from safesail.errors import DataError
from safesail.files import restore, scratch_folder, whole_file, whole_folder


def test_a_file_appears_when_the_block_ends_well_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_private_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a", private=True):
        pass
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"), whole_file(tmp_path / "file" / "a"):
        pass


def test_a_folder_appears_whole_and_never_over_another(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
    assert (tmp_path / "out" / "a").read_text() == "1"
    with pytest.raises(DataError, match="there already"), whole_folder(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from safesail.files import whole_file, whole_folder\n"
        f"with whole_file(Path({str(tmp_path / 'a')!r})), whole_folder(Path({str(tmp_path / 'f')!r})): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.glob(".*.partial"))) == 2
    with whole_file(tmp_path / "a"):
        with whole_file(tmp_path / "a") as second:
            second.write_text("inner")
        assert len(list(tmp_path.glob(".a.*.partial"))) == 1
    with whole_folder(tmp_path / "f"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "f"]


def test_a_planted_link_is_never_written_through(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("untouched")
    (tmp_path / ".a.partial").symlink_to(target)
    (tmp_path / "a").symlink_to(target)
    with whole_file(tmp_path / "a") as partial:
        partial.write_text("new")
    assert target.read_text() == "untouched"
    assert (tmp_path / "a").read_text() == "new"


def test_a_folder_is_replaced_in_one_step_and_a_failed_one_leaves_the_old(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("old", "new"):
        with whole_folder(out, replace=True) as partial:
            (partial / "a").write_text(content)
    assert (out / "a").read_text() == "new"
    with pytest.raises(RuntimeError), whole_folder(out, replace=True) as partial:
        raise RuntimeError
    assert (out / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


REPLACE = """
import os, sys
from pathlib import Path
from safesail import files
files._exchange = lambda a, b: False  # a system that cannot swap two names
rename, calls = Path.rename, []
def dying(self, target):
    if len(calls) == 1:
        os._exit(1)
    calls.append(target)
    return rename(self, target)
Path.rename = dying
with files.whole_folder(Path(sys.argv[1]), replace=True) as partial:
    (partial / "a").write_text("new")
"""


def test_a_kill_between_two_renames_hides_nothing_for_good(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out) as partial:
        (partial / "a").write_text("old")
    assert subprocess.run([sys.executable, "-c", REPLACE, str(out)], check=False).returncode == 1
    assert not out.exists(), "killed between the two"
    restore(out)
    assert (out / "a").read_text() == "old"
    with whole_folder(out, replace=True) as partial:
        (partial / "a").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_resumed_folder_goes_on_and_holds_nothing_planted(tmp_path: Path) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("untouched")
    with pytest.raises(LookupError), whole_folder(out, resume=LookupError) as partial:
        (partial / "half").write_text("kept")
        raise LookupError
    (partial / "link").symlink_to(precious)
    (partial / "hard").hardlink_to(precious)
    with whole_folder(out, resume=LookupError) as partial:
        assert [p.name for p in partial.iterdir()] == ["half"]
        for name in ("link", "hard"):
            (partial / name).write_text("new")
    assert precious.read_text() == "untouched"
    (tmp_path / ".out.partial").symlink_to(tmp_path)
    with pytest.raises(RuntimeError), whole_folder(out, replace=True, resume=LookupError) as partial:
        assert not list(partial.iterdir())
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "precious"]


def test_a_scratch_folder_is_gone_with_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "out") as scratch:
        (scratch / "a").write_text("")
        assert scratch.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".out.{pid}.partial", ".out.{pid}.new", ".out.{pid}-x_1.partial"])
def test_leftovers_of_every_kind_are_swept(name: str, tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    (tmp_path / name.format(pid=int(gone.stdout))).mkdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
