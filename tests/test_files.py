"""Folders have one writer, and what it writes is whole or not there."""

import errno
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

try:
    import resource
except ImportError:  # Windows has none
    resource = None

import dclose_nb as dc
from dclose_nb import files

OWN = re.compile(r"[ab]\.txt|manifest\.json")
MANIFEST = '{"files": ["a.txt", "b.txt", "manifest.json"]}'

# Writes a.txt and b.txt, says so, and goes on as its second argument says
WRITER = f"""
import re, sys, time
from pathlib import Path
from dclose_nb import files
with files.staged(Path(sys.argv[1]), re.compile({OWN.pattern!r}), ["a.txt"], "ours") as stage:
    for name in ("a.txt", "b.txt"):
        (stage / name).write_text("new")
    (stage / "manifest.json").write_text({MANIFEST!r})
    print("written", flush=True)
    exec(sys.argv[2])
"""


def writer(folder, then="time.sleep(60)"):
    """A process that has written to its stage."""
    command = [sys.executable, "-c", WRITER, str(folder), then]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    return process


def staged(folder):
    return files.staged(folder, OWN, ["a.txt"], "ours")


def write(folder, content):
    with staged(folder) as stage:
        (stage / "a.txt").write_text(content)
        (stage / "manifest.json").write_text('{"files": ["a.txt", "manifest.json"]}')


def write_both(folder):
    with staged(folder) as stage:
        (stage / "manifest.json").write_text(MANIFEST)
        for name in ("a.txt", "b.txt"):
            (stage / name).write_text("new")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
@pytest.mark.parametrize("there", [True, False])
def test_a_second_writer_is_refused_before_its_work(tmp_path, there):
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
    with writer(folder) as first:
        for own in (staged, files.owned):
            with pytest.raises(dc.InputError, match="another run is writing to the folder"), own(folder):
                pytest.fail("it worked")
        first.kill()
    write(folder, "second")  # a dead process holds nothing, and nothing of it is left
    assert names(folder) == ["a.txt", "manifest.json"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_there_are_never_two_writers(tmp_path):
    """Locks are taken and given back at once by many threads; each sees only its own file in the folder."""
    taken = []

    def try_often(k):
        for _ in range(100):
            with suppress(dc.InputError), files.owned(tmp_path / "out"):
                (tmp_path / "out" / str(k)).touch(exist_ok=False)
                assert [name for name in names(tmp_path / "out") if not name.startswith(".")] == [str(k)]
                (tmp_path / "out" / str(k)).unlink()
                taken.append(k)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(try_often, range(4)))
    assert len(taken) > 20 and set(names(tmp_path)) <= {"out"} and not [*(tmp_path / "out").glob("*")]


def test_only_what_a_killed_writer_left_is_removed(tmp_path):
    for name in (".unfinished-business", ".dclose", "dclose_nb-unfinished-1"):
        (tmp_path / name).mkdir()
    with writer(tmp_path) as first:
        first.kill()
    assert [name for name in names(tmp_path) if name.startswith(files.UNFINISHED)]
    write(tmp_path, "second")
    assert names(tmp_path) == sorted(
        [".unfinished-business", ".dclose", "dclose_nb-unfinished-1", "a.txt", "manifest.json"]
    )


def test_a_writer_that_was_killed_while_files_moved_is_made_up_for(tmp_path):
    """Its files are ours although no manifest is there that says so."""
    write(tmp_path, "old")
    move = "os = __import__('os'); os.replace(stage / 'a.txt', Path(sys.argv[1]) / 'a.txt'); "
    move += "(Path(sys.argv[1]) / 'manifest.json').unlink(); os.kill(os.getpid(), 9)"
    with writer(tmp_path, move) as first:
        first.wait(30)
    assert "manifest.json" not in names(tmp_path) and (tmp_path / "a.txt").read_text() == "new"
    write(tmp_path, "newest")
    assert names(tmp_path) == ["a.txt", "manifest.json"] and (tmp_path / "a.txt").read_text() == "newest"


def test_a_stop_while_files_move_waits_for_the_last(tmp_path, monkeypatch):
    write(tmp_path, "old")
    replace, moved = os.replace, []

    def stopped_once(source, target):
        if not moved:
            moved.append(target)
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        write_both(tmp_path)
    assert moved
    assert names(tmp_path) == ["a.txt", "b.txt", "manifest.json"]
    assert (tmp_path / "a.txt").read_text() == "new" and (tmp_path / "manifest.json").read_text() == MANIFEST


def test_without_locks_nobody_is_refused_and_nothing_is_cleared(tmp_path, monkeypatch):
    """A network drive without locks: a warning says so, since what lies there may be somebody's at work."""
    (tmp_path / f"{files.UNFINISHED}somebody").mkdir()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\): let no other run write"):
        write(tmp_path, "new")
    assert names(tmp_path) == [f"{files.UNFINISHED}somebody", "a.txt", "manifest.json"]
    assert (tmp_path / "a.txt").read_text() == "new"
    with pytest.warns(UserWarning, match="cannot be locked"), files.owned(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("name", ["a.txt", "manifest.json"])
def test_a_folder_is_no_file_of_ours(tmp_path, name):
    write(tmp_path, "old")
    if name == "manifest.json":
        (tmp_path / "a.txt").unlink()  # else it is refused, since nothing says whose it is
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(dc.InputError, match=f"{name}' is not ours and would be lost"):
        write(tmp_path, "new")
    assert (tmp_path / name).is_dir()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such limit")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for a disk without room."""
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, 1000))
    then = "np = __import__('numpy')\n"
    then += "with files.write_errors(stage): np.savez(stage / 'b.npz', np.zeros(10_000))"
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out"), then]
    said = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited).stderr
    last = said.strip().splitlines()[-1]
    assert (
        last.startswith("dclose_nb.checks.InputError: cannot write to the folder")
        and "File too large" in last
    )
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", ["[" * 100_000, "{", b"\xff"])
def test_json_that_is_none_is_a_value_error(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError):  # noqa: PT011  the reader says what it wanted
        files.read_json(tmp_path / "a.json")


def test_writers_of_one_file_do_not_meet_and_follow_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".a.txt.unfinished").symlink_to(victim)
    with files.atomic_write(tmp_path / "a.txt") as first, files.atomic_write(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first" and victim.read_text() == "mine"
    assert (tmp_path / "a.txt").stat().st_mode == victim.stat().st_mode
    assert names(tmp_path) == [".a.txt.unfinished", "a.txt", "victim"]


def test_a_folder_with_a_manifest_is_whole(tmp_path, monkeypatch):
    """The old manifest goes before anything moves, and the new one comes last."""
    write(tmp_path, "old")
    replace, moved = os.replace, []

    def watched(source, target):
        assert not (tmp_path / "manifest.json").exists()
        moved.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_both(tmp_path)
    assert sorted(moved[:-1]) == ["a.txt", "b.txt"] and moved[-1] == "manifest.json"


def test_where_files_cannot_be_moved_nothing_new_is_lost(tmp_path, monkeypatch):
    """As on Windows, where a viewer that shows b.txt keeps it."""
    write(tmp_path, "old")
    replace = os.replace

    def held(source, target):
        if os.path.basename(target) == "b.txt":
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", held)
        with pytest.raises(dc.InputError, match=r"cannot write to the folder .* Permission denied"):
            write_both(tmp_path)
    (left,) = tmp_path.glob(f"{files.UNFINISHED}*")
    assert (left / "b.txt").read_text() == "new"
    write(tmp_path, "newest")
    assert names(tmp_path) == ["a.txt", "manifest.json"] and (tmp_path / "a.txt").read_text() == "newest"


def test_what_fails_beside_the_folder_is_not_the_folder_s_fault(tmp_path):
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file"),
        BrokenPipeError(errno.EPIPE, ""),
    ):
        with pytest.raises(type(error)), staged(tmp_path / "out"):
            raise error
    assert names(tmp_path) == []
