"""The command, as a person types it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dclose_nb as dc
from dclose_nb import cli, folder
from dclose_nb.cli import main
from dclose_nb.files import shipped
from dclose_nb.planted.dataset import write_coco

NOBODY = "http://127.0.0.1:9"  # nobody listens on the discard port


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A file of a scene with a house and a person in it, in the folder that a person works in."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(dc.planted.scene(42, layout="inside").image).save("home.png")
    return "home.png"


def explain(*arguments):
    return main(["explain", *arguments, "--detector", "planted", "--n-masks", "20"])


def test_a_photo_is_explained(photo, capsys):
    out = Path("out")
    assert explain(photo, "--out", "out", "--seed", "4") == 0
    printed = capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["n_forward"] == 21 and manifest["seed"] == 4 and manifest["image"]["photo"] == photo
    found = dc.load_detector("planted").detect(dc.load_photo(photo))
    assert [entry["label"] for entry in manifest["objects"]] == found.names == ["house", "person"]
    assert len(list(out.glob("overlay_*.png"))) == 2
    for part in (
        "object",
        "score",
        "method",
        "passes",
        "seconds",
        "house ",
        "person ",
        "dclose",
        " 21 ",
        "out/",
    ):
        assert part in printed


def test_a_page_is_written_unless_it_is_left_out(photo, capsys):
    page = Path("out", "report.html")
    for arguments, there in (((), True), (("--no-html",), False)):
        assert explain(photo, "--out", "out", "--top", "1", *arguments) == 0
        assert page.is_file() == there == ("report.html" in capsys.readouterr().out)
        assert Path("out", "sheet.png").is_file()


def test_what_is_explained_can_be_chosen(photo, capsys):
    def explained(*arguments):
        assert explain(photo, "--out", "out", "--no-html", *arguments) == 0
        objects = json.loads(Path("out", "manifest.json").read_text())["objects"]
        return [(entry["label"], entry["score"]) for entry in objects]

    (house, high), (person, low) = explained("--device", "cpu")
    assert explained("--labels", "person,tree") == [(person, low)]
    assert explained("--confidence", str((high + low) / 2)) == [(house, high)]
    capsys.readouterr()
    assert explained("--labels", "tree", "--confidence", "0.5") == []
    assert "no object was found (score 0.5 or more, labels tree)" in capsys.readouterr().out


def test_top_explains_the_best_only(photo, capsys):
    assert explain(photo, "--out", "out", "--top", "1", "--method", "drise") == 0
    assert [path.name for path in Path("out").glob("overlay_*.png")] == ["overlay_01_house.png"]
    assert "drise" in capsys.readouterr().out


def test_a_photo_that_is_named_from_home_or_twice_is_one_photo(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for number, names in enumerate((["~/home.png"], [photo, photo], [photo, f"./{photo}"])):
        assert explain(*names, "--out", str(number), "--no-html", "--top", "1") == 0
        assert Path(str(number), "sheet.png").is_file()


# -- many photos


@pytest.fixture
def photos(photo):
    """Two photos of the same name and one that is torn, by a pattern and a folder."""
    for name in ("a", "b"):
        Path(name).mkdir()
        shutil.copy(photo, name)
    Path("b/torn.jpg").write_bytes(b"\xff\xd8\xff")
    return ["a/*.png", "b"]


def test_many_photos_have_an_index_and_what_fails_is_said(photos, capsys):
    for _ in range(2):
        assert explain(*photos, "--out", "out", "--method", "regression") == 1
        printed = capsys.readouterr().out
        assert "3 photos: 2 explained, 1 failed\n    b/torn.jpg: 'b/torn.jpg' is not an image" in printed
        assert "\nout/  index.html, detections.csv" in printed
    assert len(list(Path("out").glob("home_*/report.html"))) == 2
    assert not list(Path("out").rglob("overlay*"))
    rows = Path("out/detections.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows] == ["label", *["house", "person"] * 2]


def test_a_condition_fails_the_command(photo, capsys):
    named = r"1 of 2 detections have score > 0\.\d+:\n    home\.png: house 0\.\d\d, score 0\.\d+\n"
    found = dc.load_detector("planted").detect(dc.load_photo(photo))
    condition = f"score > {found.scores.mean():.4f}"
    for arguments in ([photo, "--no-html", "--out", "one"], ["*.png", "--out", "many"]):
        assert explain(*arguments, "--fail-if", condition) == 1
        assert re.search(named, capsys.readouterr().out)
        assert explain(*arguments, "--fail-if", "score > 1") == 0
        assert "detections have" not in capsys.readouterr().out
    with_error = ["--no-html", "--out", "error", "--method", "regression"]
    assert explain(photo, *with_error, "--fail-if", "error>0") == 1
    assert "2 of 2 detections have error > 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["home.png", "home.png/../home.png", "other.png"], "many photos need --out DIR"),
        (["*.png", "--out", "out", "--no-html"], "each has its report.html"),
        (["nothing/*.png"], "no file matches 'nothing/*.png'"),
        (["empty"], "the folder 'empty' holds no image file"),
        (["home.png", "--fail-if", "beauty > 1"], "one of 'score', 'x1', "),
        (["home.png", "--fail-if", "import os"], "got 'import os'"),
        (["home.png", "--fail-if", "error > 0.1"], "dclose gives no error: take --method regression or"),
        (["home.png", "--method", "gradcam", "--fail-if", "error > 0.1"], "gradcam gives no error"),
        (["*.png", "--out", "out", "--workers", "0"], "workers must be an integer of at least 1"),
    ],
)
def test_many_photos_that_cannot_be_are_one_line(photo, tmp_path, capsys, arguments, word):
    Path("empty").mkdir()
    assert main(["explain", *arguments, "--detector", "planted"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and word in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "home.png"]


# -- detectors of one's own

MAKER = """
import dclose_nb as dc
def detector():
    return dc.load_detector("planted", device="cpu")
def counted():
    import os, pathlib
    pathlib.Path(f"loaded_{os.getpid()}").touch()
    return detector()
def path():
    return "planted"
def function():
    def whole(image):
        return {"boxes": [[0, 0, *image.shape[1::-1]]], "class_probs": [[0.9, 0.1]]}
    return whole
def nothing():
    pass
def raises():
    raise OSError("no camera")
def wants(more):
    pass
"""


@pytest.fixture
def maker(photo, tmp_path, monkeypatch):
    """A module in the folder that a person works in."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "maker", raising=False)
    Path("maker.py").write_text(MAKER)


def test_a_function_of_a_module_makes_the_detector(photo, maker, capsys):
    for name in ("detector", "path"):
        arguments = ["explain", photo, "--detector", f"maker:{name}", "--n-masks", "10", "--top", "1"]
        assert main([*arguments, "--no-html", "--out", name]) == 0
        assert json.loads(Path(name, "manifest.json").read_text())["detector"]["name"] == "planted"


@pytest.mark.parametrize(
    "content", ["cup\ndining table\n", '["cup", "dining table"]', "\ufeffcup\r\ndining table"]
)
def test_classes_come_from_a_file(photo, maker, content):
    Path("names.txt").write_text(content, encoding="utf-8")
    arguments = ["explain", photo, "--detector", "maker:function", "--classes", "names.txt"]
    assert main([*arguments, "--n-masks", "10", "--no-html", "--out", "out"]) == 0
    assert [one["label"] for one in json.loads(Path("out/manifest.json").read_text())["objects"]] == ["cup"]
    assert dc.Explanation.load("out").detections.class_names == ("cup", "dining table")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (
            ["nosuch.module:f"],
            "nosuch.module:f gives no detector: ModuleNotFoundError: No module named 'nosuch'",
        ),
        (["maker:nosuch"], "maker:nosuch gives no detector: AttributeError: module 'maker' has no attribute"),
        (["maker:raises"], "maker:raises gives no detector: OSError: no camera"),
        (["maker:wants"], "maker:wants gives no detector: TypeError: wants() missing 1 required"),
        (["maker:nothing"], "maker:nothing returns None: it must return what dc.load_detector takes"),
        (["maker:detector", "--device", "cpu"], "a Detector takes no device"),
        (["maker:function"], "needs class_names="),
        (["planted", "--classes", "two.txt"], "'planted' takes no class_names"),
        (["planted", "--decode", "yolox"], "'planted' takes no decode"),
        (["maker:function", "--classes", "three.txt"], "class_probs must be"),
        (["maker:function", "--classes", "none.txt"], "'none.txt' cannot be read: No such file"),
        (["maker:function", "--classes", "empty.txt"], "'empty.txt' holds no class names: it is empty"),
        (["maker:function", "--classes", "broken.txt"], "'broken.txt' holds no class names: "),
        (["maker:function", "--classes", "latin.txt"], "'latin.txt' holds no class names: "),
        (["maker:function", "--classes", "numbers.txt"], "class_names must be a list of names, got [1, 2]"),
    ],
)
def test_a_detector_that_is_none_is_one_line(photo, maker, capsys, arguments, word):
    for name, content in (
        ("two", b"a\nb"),
        ("three", b"a\nb\nc"),
        ("empty", b" \n"),
        ("broken", b"[1,"),
        ("latin", b"caf\xe9"),
        ("numbers", b"[1, 2]"),
    ):
        Path(f"{name}.txt").write_bytes(content)
    assert main(["explain", photo, "--out", "out", "--detector", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and word in lines[0]
    assert not Path("out").exists()


@pytest.mark.slow
def test_workers_load_such_detectors_for_themselves(photo, maker, tmp_path):
    write_coco("coco", range(3), progress=False)
    annotations = "coco/annotations/instances_val2017.json"
    detector = ["--detector", "maker:counted", "--n-masks", "10"]
    explained = run("explain", annotations, *detector, "--workers", "2", "--out", "maps", check=True)
    assert explained.stdout.startswith("3 photos: 3 explained")
    assert len(list(Path().glob("loaded_*"))) > 1  # by the command's process, and by workers
    methods = ["--methods", "dclose", "--steps", "2", "--confidence", "0.5"]
    assert main(["evaluate", "--coco", "coco", *methods, *detector, "--out", "scores"]) == 0
    settings, *records = map(json.loads, Path("scores/records.jsonl").read_text().splitlines())
    assert settings["settings"]["confidence"] == 0.5 and len(records) == 3
    assert settings["settings"]["detector"]["name"] == "planted"


def test_many_objects_are_warned_of(photo, capsys, monkeypatch):
    monkeypatch.setattr(folder, "MANY", 1)
    assert explain(photo, "--out", "out", "--no-html") == 0
    assert "note: 2 objects take long and much memory: choose with --top" in capsys.readouterr().err


def test_the_default_folder_is_named_after_the_photo_and_never_another_s(photo, capsys):
    for own in (photo, f"./{photo}"):  # the second replaces the first
        assert explain(own, "--no-html", "--top", "1") == 0
    folder = Path("explanations", "home_dclose")
    before = (folder / "manifest.json").read_bytes()
    Path("other").mkdir()
    Path(photo).rename("other/home.png")
    capsys.readouterr()
    assert explain("other/home.png") == 2
    said = f"dclose-nb: '{folder}' holds the maps of './home.png': choose another with --out\n"
    assert capsys.readouterr().err == said and (folder / "manifest.json").read_bytes() == before


def test_masks_can_be_made_until_the_map_needs_no_more(photo, tmp_path):
    arguments = ["explain", "home.png", "--detector", "planted", "--method", "contrast", "--top", "1"]
    assert main([*arguments, "--n-masks", "auto", "--out", "out"]) == 0
    assert dc.Explanation.load("out").tolerance == 0.1


@pytest.mark.parametrize("command", ["explain home.png", "evaluate --coco a --out b", "figures --out b"])
def test_a_number_of_masks_that_is_none_is_refused(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--n-masks", "few" if command.startswith("explain") else "auto"])
    assert stopped.value.code == 2 and "argument --n-masks: " in capsys.readouterr().err


def test_a_photo_without_objects_is_no_error(tmp_path, capsys):
    Image.fromarray(np.full((12, 20, 3), 128, np.uint8)).save(tmp_path / "fog.png")
    assert explain(str(tmp_path / "fog.png"), "--out", str(tmp_path / "out")) == 0
    assert "no object was found" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["objects"] == []
    assert np.load(tmp_path / "out" / "maps.npz")["saliency"].shape == (0, 12, 20)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["no_such_photo"], "neither a file, nor scene_0"),
        (["home.png", "--method", "magic"], "method must be one of"),
        (["home.png", "--n-masks", "3"], "each of 5 levels"),
        (["home.png", "--method", "gradcam", "--n-masks", "30"], "'gradcam' has no option 'n_masks'"),
        (["home.png", "--seed", "-1"], "seed"),
        (["home.png", "--top", "0"], "top must be"),
        (["home.png", "--confidence", "1.1"], "confidence must be a number in [0, 1]"),
        (["home.png", "--confidence", "nan"], "confidence must be a number in [0, 1]"),
        (["home.png", "--labels", "person,unicorn"], "has no class 'unicorn'; it has: "),
        (["home.png", "--labels", ""], "has no class ''"),
        (["home.png", "--device", "toaster"], "device 'toaster' cannot be used"),
        (["home.png", "--detector", "yolo_v99"], "detector must be one of"),
        (["home.png", "--out", "home.png"], "cannot write"),
        (["home.png", "--out", ""], "'' cannot be used as a path: it is empty"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(photo, tmp_path, capsys, arguments, word):
    assert main(["explain", *arguments[:1], "--detector", "planted", *arguments[1:]]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("dclose-nb: ") and word in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["home.png"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
def test_a_stop_leaves_nothing_behind(tmp_path):
    """By Ctrl-C, which other signals become, see `test_commands`."""
    command = [sys.executable, "-m", "dclose_nb", "explain", "scene_7", "--detector", "planted"]
    command += ["--n-masks", "100000", "--out", str(tmp_path / "out")]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts with & ignores it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        for line in iter(lambda: process.stderr.read(40), ""):
            if "mask" in line or "%" in line:  # the bar has begun to move
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "dclose-nb: stopped; nothing is half-written" in rest and "Traceback" not in rest
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such limit")
def test_a_disk_that_fills_is_one_line(tmp_path):
    """A limit on the size of files stands in for it."""
    resource = pytest.importorskip("resource")
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (30_000, 30_000))
    out = str(tmp_path / "out")
    arguments = ["explain", "scene_7", "--detector", "planted", "--n-masks", "20", "--top", "1", "--out", out]
    done = run(*arguments, preexec_fn=limited)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"dclose-nb: cannot write to the folder '{out}': File too large"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell closes streams")
def test_closed_streams_stop_no_work(tmp_path):
    command = (
        f"'{sys.executable}' -m dclose_nb explain scene_7 --detector planted --n-masks 20 --top 1 --no-html"
    )
    assert subprocess.run(f"{command} --out '{tmp_path}' >&- 2>&-", shell=True).returncode == 0
    assert (tmp_path / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_nobody_takes(tmp_path):
    """The tables are on the disk; a reader that left, as head does, is no matter for words."""
    records = tmp_path / "records.jsonl"
    records.write_bytes((shipped("results") / "yolox_nano_coco" / "records.jsonl").read_bytes())
    command = f"'{sys.executable}' -m dclose_nb tables '{tmp_path}'"
    for redirected, status, word in (
        (f"{command} > /dev/full", 2, "dclose-nb: No space left on device\n"),
        (f"({command}; echo $? >&2) | true", 0, "141\n"),
        (f"{command} >&-", 0, ""),
        (f"{command} 2>&-", 0, ""),
        (f"{command} > /dev/full 2> /dev/full", 2, ""),
    ):
        (tmp_path / "tables.md").unlink(missing_ok=True)
        done = subprocess.run(redirected, shell=True, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (status, word), redirected
        assert (tmp_path / "tables.md").stat().st_size > 1000


def test_the_demo_needs_no_weights(tmp_path, monkeypatch, capsys):
    """Where they cannot be fetched it says so in one line and explains a scene, as it would a photo."""
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", NOBODY)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    write = cli._write
    monkeypatch.setattr(cli, "_write", lambda *given, n_masks: write(*given, n_masks=n_masks // 50))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    notes = [line for line in printed.err.splitlines() if "planted" in line]
    assert len(notes) == 1 and "could not be fetched" in notes[0]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["detector"]["name"] == "planted" and manifest["n_forward"] == 21
    assert len(manifest["objects"]) == len(list((tmp_path / "out").glob("overlay_*.png"))) == 2
    assert all(word in printed.out for word in ("sheet.png", manifest["objects"][0]["label"]))


def test_weights_are_fetched_ahead(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", NOBODY)
    assert main(["fetch", "yolox_nano"]) == 2
    assert "could not be fetched" in capsys.readouterr().err
    path = tmp_path / "weights" / "yolox_nano.pth"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert main(["fetch", "yolox_nano"]) == 2
    assert "cannot be read as weights of yolox_nano" in capsys.readouterr().err
    torch.save({"model": {}}, path)
    assert main(["fetch", "yolox_nano"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"yolox_nano: {path}\n"
    assert printed.err.startswith(f"note: {path} is not the official yolox_nano checkpoint")
    assert main(["fetch", "yolox_huge"]) == 2


def run(*arguments, **options):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "dclose_nb", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


OPTIONS = {
    "explain": "--detector --classes --decode --device --seed --confidence --workers --n-masks --method "
    "--question --labels --top --fail-if --no-html --out",
    "demo": "--out",
    "evaluate": "--detector --classes --decode --device --seed --confidence --workers --n-masks --coco "
    "--methods --steps --within-classes --untimed --limit --skip-missing --out",
    "tables": "--without",
    "figures": "--detector --classes --decode --device --n-masks --seed --coco --photo --only --out",
    "fetch": "",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_says_what_each_option_is(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    usage, _, rest = printed.partition("options: -h, --help show this help message and exit")
    described, _, example = rest.partition(f" Example: dclose-nb {command}")
    assert example
    for option in OPTIONS[command].split():
        assert option in usage
        text = described.split(f" {option} ", 1)[1].split(" --")[0]
        assert len(text.split()) > 2, text
    assert sorted(OPTIONS[command].split()) == sorted(set(re.findall(r"--[a-z-]+", usage)))
    assert all(word in OPTIONS[command].split() for word in example.split() if word.startswith("--"))


def test_help_names_the_fast_method_and_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("dclose, the paper's (default); regression, the fast one", "seed of the masks; default: 0"):
        assert words in printed


def test_the_command_is_installed(capsys):
    (entry,) = entry_points(group="console_scripts", name="dclose-nb")
    with pytest.raises(SystemExit):
        entry.load()(["--version"])
    assert capsys.readouterr().out == f"dclose-nb {dc.__version__}\n"
