"""Studies: alike whoever does them and however often they stop."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from tqdm.auto import tqdm

import dclose_nb as dc
from dclose_nb.studies import runner
from dclose_nb.studies.records import Records
from dclose_nb.studies.runner import Task, detector_of, run_study, study_command, study_parser

TASKS = [Task({"detector": name, "image": k}, (name, k)) for name in ("a", "b") for k in (1, 2, 3)]


def write_down(name, k):
    return {"answer": f"{name} {k}"}


def write_down_or_die(name, k, folder):
    """Kill the first process that is asked for a 3."""
    if k == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
    return write_down(name, k)


def die(name, k):
    os._exit(1)


def linger(name, k, folder):
    """Say which process works, show a bar as studies do, and work for long."""
    tqdm(disable=True)
    (folder / f"{os.getpid()}.worker").touch()
    time.sleep(60)


def study(out, tasks=TASKS, work=write_down, **options):
    return run_study(out, {"made": "here"}, tasks, work, progress=False, **options)


def answers(records):
    return sorted((line["detector"], line["image"], line["answer"]) for line in records.lines)


def test_a_line_is_the_key_and_what_the_work_gives(tmp_path):
    records = study(tmp_path)
    assert records.lines == [
        {"detector": name, "image": k, "answer": f"{name} {k}"} for name in ("a", "b") for k in (1, 2, 3)
    ]
    again = Records(tmp_path / "records.jsonl")
    assert again.lines == records.lines and again.settings == {"made": "here"}
    assert study(tmp_path / "none", []).lines == []
    with warnings.catch_warnings(action="error"):
        assert study(tmp_path, []).lines == records.lines


def test_only_what_is_left_is_done(tmp_path):
    taken = []

    def stopped(name, k):
        taken.append((name, k))
        if len(taken) == 3:
            raise KeyboardInterrupt
        return write_down(name, k)

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "broken", work=stopped)
    assert answers(study(tmp_path / "broken", work=stopped)) == answers(study(tmp_path / "whole"))
    assert taken == [("a", 1), ("a", 2), ("a", 3), ("a", 3), ("b", 1), ("b", 2), ("b", 3)]


def test_what_failed_is_tried_again(tmp_path):
    def fails(name, k):
        return {"error": "torn"} if k == 2 else write_down(name, k)

    assert sum("error" in line for line in study(tmp_path, work=fails).lines) == 2
    assert sum("error" in line for line in study(tmp_path, work=fails).lines) == 2
    assert (
        answers(study(tmp_path))
        == answers(Records(tmp_path / "records.jsonl"))
        == answers(study(tmp_path / "w"))
    )
    assert Records(tmp_path / "records.jsonl").settings == {"made": "here"}


def count_threads(name, k):
    return {"threads": torch.get_num_threads()}


def test_workers_share_the_threads_that_this_process_may_use(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        records = study(tmp_path, work=count_threads, workers=2)
    finally:
        torch.set_num_threads(before)
    assert {line["threads"] for line in records.lines} == {3}


def test_an_executor_gives_what_one_process_gives(tmp_path):
    expected = answers(study(tmp_path / "serial"))
    with ThreadPoolExecutor(2) as executor:
        assert answers(study(tmp_path / "threads", executor=executor)) == expected


@pytest.mark.slow
def test_a_worker_that_dies_does_not_lose_its_task(tmp_path):
    tasks = [Task(task.key, (*task.arguments, tmp_path)) for task in TASKS[1:4]]
    with pytest.warns(UserWarning, match="a worker process died; [1-3] images are left and go on"):
        records = study(tmp_path / "out", tasks, write_down_or_die, workers=2)
    assert (tmp_path / "died").exists()
    assert answers(records) == answers(study(tmp_path / "serial", TASKS[1:4]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a worker process died")
def test_workers_that_always_die_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ATTEMPTS", 2)
    with pytest.raises(dc.InputError, match=r"died 2 times without an image done .* memory for 2"):
        study(tmp_path, TASKS[:1], die, workers=2)


def test_an_error_stops_the_study_and_keeps_what_was_done(tmp_path):
    def fails(name, k):
        if k == 2:
            raise FloatingPointError("NaN")
        return write_down(name, k)

    with ThreadPoolExecutor(1) as executor:
        for out, options in (("serial", {}), ("threads", {"executor": executor})):
            with pytest.raises(FloatingPointError):
                study(tmp_path / out, work=fails, **options)
            assert answers(Records(tmp_path / out / "records.jsonl")) == [("a", 1, "a 1")]


def test_the_manifest_names_each_run(tmp_path):
    for count in (1, 2):
        records = study(tmp_path, TASKS[:count])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"] == records.settings
    assert [(run["images"], run["of_which_done"]) for run in manifest["runs"]] == [(1, 0), (2, 1)]
    assert all("torch" in run["versions"] and run["cores"] for run in manifest["runs"])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(dc.InputError, match=r"manifest\.json' is damaged"):
        study(tmp_path)


def test_bad_input(tmp_path):
    with pytest.raises(dc.InputError, match="workers must be an integer of at least 1, got 0"):
        study(tmp_path / "out", workers=0)
    with pytest.raises(dc.InputError, match="detector 'b', image 2 is asked for more than once"):
        study(tmp_path / "out", [*TASKS, TASKS[4]])
    assert not (tmp_path / "out").exists()
    study(tmp_path)
    with pytest.raises(dc.InputError, match="was made with made 'here', not 'there': choose another folder"):
        run_study(tmp_path, {"made": "there"}, TASKS, write_down)


def test_a_detector_is_loaded_once(lamps):
    assert detector_of("planted") is detector_of("planted") and detector_of(lamps) is lamps
    assert detector_of("planted").name == "planted"


LINGERING = """
import sys
from pathlib import Path
from test_runner import TASKS, Task, linger, study, study_command
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = [Task(task.key, (*task.arguments, folder)) for task in TASKS]
    work = lambda: study(folder / "out", tasks, linger, workers=2)
    sys.exit(study_command("study", work))
"""


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="this system has no /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    """Whoever stops it: Ctrl-C reaches all processes of a terminal, other signals the parent alone."""
    (tmp_path / "main.py").write_text(LINGERING)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts with & ignores it
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        preexec_fn=heed,
        start_new_session=True,
    ) as parent:
        while len(workers := [*tmp_path.glob("*.worker")]) < 2:
            assert parent.poll() is None
            time.sleep(0.05)
        with pytest.raises(dc.InputError, match="another run is writing"):
            study(tmp_path / "out")
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        said = parent.stderr.read()
        assert parent.wait(30) == (-9 if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert said == "\nstudy: stopped; the same command goes on from there\n"
    for _ in range(100):
        if not any(lives(worker.stem) for worker in workers):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a worker lives on")
    assert len(study(tmp_path / "out").lines) == len(TASKS)


# -- a study's command


def test_a_parser_has_what_all_studies_have(tmp_path, capsys):
    args = study_parser("look", "Looks.").parse_args([str(tmp_path), "--workers", "2"])
    assert (args.out, args.workers) == (str(tmp_path), 2)
    with pytest.raises(SystemExit):
        study_parser("look", "Looks.").parse_args([])
    assert "usage: python -m dclose_nb.studies.look" in capsys.readouterr().err


def test_a_command_prints_what_it_found_or_what_is_wrong(capsys):
    def fails(error):
        raise error

    assert study_command("look", lambda: "3 images") == 0
    assert capsys.readouterr() == ("3 images\n", "")
    for error in (dc.InputError("no such folder"), dc.WeightsError("no such folder")):
        assert study_command("look", lambda error=error: fails(error)) == 2
        assert capsys.readouterr() == ("", "look: no such folder\n")
    assert study_command("look", lambda: fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "\nlook: stopped; the same command goes on from there\n")
