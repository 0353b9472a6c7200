"""How commands end. Stops and full disks are tried in test_cli and test_runner, with processes."""

import os
import signal

import pytest

import dclose_nb as dc
from dclose_nb.checks import warn
from dclose_nb.commands import run_command


def ends(error=None, status=0):
    def work():
        if error is not None:
            raise error
        return status

    return run_command("look", work, left="half is left")


def test_the_status_is_that_of_the_work(capsys):
    assert (ends(), ends(status=1)) == (0, 1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (dc.InputError("no such folder"), 2, "look: no such folder\n"),
        (dc.WeightsError("no weights"), 2, "look: no weights\n"),
        (ImportError("no torch"), 2, "look: no torch\n"),
        (FloatingPointError("proposed NaN"), 2, "look: proposed NaN\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "look: Permission denied: '/x'\n"),
        (OSError(28, "No space left on device"), 2, "look: No space left on device\n"),
        (KeyboardInterrupt(), 130, "\nlook: stopped; half is left\n"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_mend_is_one_line(capsys, error, status, said):
    assert ends(error) == status
    assert capsys.readouterr() == ("", said)


def test_a_warning_is_one_line(capsys):
    assert run_command("look", lambda: warn("no such photo") or 0, left="") == 0
    assert capsys.readouterr().err == "note: no such photo\n"


def test_anything_else_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_stop_the_work_and_are_as_before_afterwards(capsys, name):
    number, before = getattr(signal, name), signal.SIG_DFL
    signal.signal(number, before)  # under nohup it was another

    def work():
        os.kill(os.getpid(), number)
        pytest.fail("it went on")

    assert run_command("look", work, left="half is left") == 130
    assert signal.getsignal(number) == before
    signal.signal(number, signal.SIG_IGN)  # as under nohup
    try:
        assert run_command("look", lambda: os.kill(os.getpid(), number) or 0, left="") == 0
    finally:
        signal.signal(number, before)
