"""Records survive kills, full disks and torn lines."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

import dclose_nb as dc
from dclose_nb.files import shipped
from dclose_nb.studies.records import Records

SETTINGS = {"n_masks": 5, "methods": ("a", "b")}


def test_what_was_appended_is_read_again(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    records = Records(path, SETTINGS)
    assert records.lines == []
    for k in range(3):
        records.append({"k": k})
    assert Records(path, SETTINGS).lines == records.lines == [{"k": 0}, {"k": 1}, {"k": 2}]


def test_records_that_ship_can_be_read():
    """Some were written by earlier versions."""
    paths = sorted(shipped("results").rglob("*.jsonl"))
    assert len(paths) >= 8
    for path in paths:
        records = Records(path)
        assert records.lines and records.settings


@pytest.mark.parametrize("lost", [1, 5, 9, 12])
def test_a_torn_line_is_done_again_and_what_is_cut_is_kept(tmp_path, lost):
    path = tmp_path / "records.jsonl"
    records = Records(path, SETTINGS)
    for k in range(3):
        records.append({"k": k, "ü": "ä"})
    torn = path.read_bytes()[:-lost]
    path.write_bytes(torn)
    with pytest.warns(UserWarning, match="was cut off and is done again"):
        again = Records(path, SETTINGS)
    assert [line["k"] for line in again.lines] == [0, 1]
    assert path.read_bytes() + (tmp_path / "records.jsonl.cut-off").read_bytes() == torn + b"\n"
    again.append({"k": 2})
    assert [line["k"] for line in Records(path, SETTINGS).lines] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b'{"settings": {"n_m'])
def test_a_file_of_nothing_but_a_torn_header_begins_anew(tmp_path, content):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    assert Records(path, SETTINGS).lines == []
    assert Records(path, SETTINGS).settings["n_masks"] == 5


FOREIGN = [
    b"",
    b"a diary",
    b"a diary\n",
    b'{"name": "Anna"}\n{"name": "Otto"}\n{"na',
    b'{"settings": {"theirs": 1}}\n{"k": 1}\n{"k"',
    b'{"settings": null}\n',
    b'{"settings": [1]}\n',
    b'{"settings": {}}\nnull\n',
    b'{"settings": {}}\n5\n',
    b"[" * 100_000 + b"\n",
    b"\xff\xfe\x00\n",
]


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: repr(content[:24]))
@pytest.mark.filterwarnings("ignore:the last line")
def test_reading_never_writes(tmp_path, content):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with suppress(dc.InputError):
        Records(path)
    assert path.read_bytes() == content and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("content", FOREIGN[1:], ids=lambda content: repr(content[:24]))
def test_a_run_does_not_touch_a_file_of_somebody_else(tmp_path, content):
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(dc.InputError) as said:
        Records(path, SETTINGS)
    assert "\n" not in str(said.value)
    assert path.read_bytes() == content and [*tmp_path.iterdir()] == [path]


def test_a_reader_gets_the_whole_lines_of_a_torn_file(tmp_path):
    path = tmp_path / "records.jsonl"
    records = Records(path, SETTINGS)
    records.append({"k": 0})
    path.write_bytes(path.read_bytes() + b'{"k"')
    with pytest.warns(UserWarning, match="the last line of .* was cut off and is left out"):
        assert Records(path).lines == [{"k": 0}]


def test_what_is_there_twice_counts_once(tmp_path):
    records = Records(tmp_path / "records.jsonl", SETTINGS)
    for image, found in ((1, "a"), (2, "b"), (1, "c"), (1, "d")):
        records.append({"image": image, "found": found})
    with pytest.warns(UserWarning, match="has more than one line of image 1: the first counts"):
        records.count_once(["image"])
    assert [line["found"] for line in records.lines] == ["a", "b"]
    with pytest.raises(dc.InputError, match=r"line 2 of .*records.jsonl' has no 'seed': remove the line"):
        records.count_once(["image", "seed"])


def test_other_settings_are_refused_with_what_differs(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path, SETTINGS)
    with pytest.raises(dc.InputError, match="with n_masks 5, not 6, seed None, not 1: choose another"):
        Records(path, {**SETTINGS, "n_masks": 6, "seed": 1})


@pytest.mark.parametrize("content", ["torn\n", "[]\n", "{}\n", '{"settings": {}}\nno json\n'])
def test_damage_is_named(tmp_path, content):
    (tmp_path / "records.jsonl").write_text(content)
    with pytest.raises(dc.InputError, match="is damaged: move it away"):
        Records(tmp_path / "records.jsonl", {})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_keeps_what_there_is(tmp_path):
    path = tmp_path / "records.jsonl"
    records = Records(path, SETTINGS)
    records.append({"k": 0})
    before = path.read_bytes()
    records.path = type(path)("/dev/full")
    with pytest.raises(dc.InputError, match="cannot write to '/dev/full': No space left") as caught:
        records.append({"k": 1})
    assert "\n" not in str(caught.value) and path.read_bytes() == before and records.lines == [{"k": 0}]


def test_a_killed_process_loses_nothing_that_it_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    code = (
        "import sys, time; from dclose_nb.studies.records import Records; r = Records(sys.argv[1], {})\n"
        "for k in range(10**9): r.append({'k': k}); print(k, flush=True); time.sleep(0.01)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(5):
            kept = int(process.stdout.readline())
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    lines = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert [line["k"] for line in lines] == list(range(len(lines))) and len(lines) > kept


def test_only_lines_that_have_the_name_are_left_out(tmp_path):
    records = Records(tmp_path / "records.jsonl", {})
    records.append({"image": 1})
    for name, values in (("nope", [None]), ("image", [1, "a"]), ("image", ["a", 5]), ("image", [[1]])):
        with pytest.raises(dc.InputError, match="which should be left out"):
            records.leave_out(name, values)
    assert records.lines == [{"image": 1}]
