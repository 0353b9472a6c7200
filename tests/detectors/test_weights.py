"""Weights: found, fetched, checked; never half a file, never code."""

import hashlib
import http.server
import json
import pickle
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch

import dclose_nb as dc
from dclose_nb.detectors import planted as networks
from dclose_nb.detectors import weights
from dclose_nb.planted import CLASS_NAMES


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOX_HOME", str(tmp_path))
    return tmp_path / "weights"


@pytest.fixture
def server(monkeypatch):
    """A release of our own on loopback: what is put in `files` is what it sends."""
    files, asked = {}, Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            content, announced = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setattr(weights, "RELEASE", f"http://127.0.0.1:{httpd.server_port}")
    yield files, asked
    httpd.shutdown()
    httpd.server_close()


def checkpoint(folder) -> bytes:
    path = folder / "made.pth"
    torch.save({"model": {"layer": torch.ones(3)}}, path)
    content = path.read_bytes()
    path.unlink()
    return content


def test_weights_are_fetched_once_and_checked(empty_home, server, tmp_path, monkeypatch, capsys):
    files, asked = server
    content = checkpoint(tmp_path)
    files["/yolox_nano.pth"] = content, len(content)
    monkeypatch.setitem(weights.OFFICIAL, "yolox_nano", hashlib.sha256(content).hexdigest())
    for _ in range(2):
        loaded = weights.load("yolox_nano")
        assert loaded.official and loaded.state["layer"].tolist() == [1, 1, 1]
    assert asked["/yolox_nano.pth"] == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "yolox_nano.pth" in line]
    assert said == [f"fetching {weights.RELEASE}/yolox_nano.pth to {empty_home}"]
    assert [path.name for path in empty_home.iterdir()] == ["yolox_nano.pth"]


def test_another_file_than_the_official_one_is_thrown_away(empty_home, server, tmp_path):
    files, _ = server
    content = checkpoint(tmp_path)
    files["/yolox_nano.pth"] = content, len(content)
    with pytest.raises(dc.WeightsError, match=f"whose sha256 is {weights.OFFICIAL['yolox_nano']}"):
        weights.load("yolox_nano")
    assert not list(empty_home.iterdir())


def test_half_a_download_is_never_used(empty_home, server, tmp_path):
    files, _ = server
    content = checkpoint(tmp_path)
    files["/yolox_nano.pth"] = content[: len(content) // 2], len(content)
    with pytest.raises(dc.WeightsError, match=r"yolox_nano.pth"):
        weights.load("yolox_nano")
    assert not list(empty_home.iterdir())


def test_no_network_is_one_clear_line_within_seconds(empty_home, monkeypatch):
    monkeypatch.setattr(weights, "RELEASE", "http://127.0.0.1:9")  # nobody listens on the discard port
    start = time.perf_counter()
    with pytest.raises(dc.WeightsError) as caught:
        dc.load_detector("yolox_nano")
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    assert "\n" not in message
    for part in ("yolox_nano.pth", "http://127.0.0.1:9/yolox_nano.pth", str(empty_home), "YOLOX_HOME"):
        assert part in message


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({"model": Bomb()}, protocol=2), b"", b"no checkpoint", b"PK\x03\x04torn"],
    ids=["bomb", "empty", "text", "torn"],
)
def test_damaged_or_dangerous_files_are_named_and_not_run(empty_home, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    empty_home.mkdir()
    (empty_home / "yolox_nano.pth").write_bytes(content)
    with pytest.raises(dc.WeightsError, match="cannot be read as weights of yolox_nano"):
        weights.load("yolox_nano")
    assert not (tmp_path / "exploded").exists()


def test_a_folder_in_the_place_of_weights_is_named(empty_home):
    (empty_home / "yolox_nano.pth").mkdir(parents=True)
    with pytest.raises(dc.WeightsError, match="cannot be read as weights"):
        weights.load("yolox_nano")


def test_the_home_may_be_written_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("YOLOX_HOME", "~/mine")
    assert weights.path_of("yolox_nano") == tmp_path / "mine" / "weights" / "yolox_nano.pth"


def test_weights_of_another_network_are_named(empty_home, tmp_path):
    empty_home.mkdir()
    (empty_home / "yolox_nano.pth").write_bytes(checkpoint(tmp_path))
    with (
        pytest.warns(UserWarning, match="not the official"),
        pytest.raises(dc.WeightsError, match="does not hold the weights of yolox_nano"),
    ):
        dc.load_detector("yolox_nano")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (1j, "complex")])
def test_a_weight_that_is_no_number_is_named(tmp_path, value, word):
    """A network with one such weight would detect nothing."""
    source = safetensors.torch.load_file(weights.shipped_path("planted_two_stage"))
    state = {name: value.float() if value.is_floating_point() else value for name, value in source.items()}
    name = "rpn.head.cls_logits.bias"
    state[name] = state[name].to(torch.complex64) if word == "complex" else state[name]
    state[name][0] = value
    content = safetensors.torch.save(state)
    (tmp_path / "planted_two_stage.safetensors").write_bytes(content)
    manifest = json.dumps({"sha256": hashlib.sha256(content).hexdigest()})
    (tmp_path / "planted_two_stage.json").write_text(manifest)
    with pytest.raises(dc.WeightsError, match=f"weight that is {word}, in 'rpn.head.cls_logits.bias'"):
        networks.load("planted_two_stage", device=torch.device("cpu"), folder=tmp_path)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (1j, "complex")])
def test_a_network_of_the_user_s_with_such_a_weight_is_refused(value, word):
    module = networks.NETWORKS["planted_two_stage"].build()
    layer = module.roi_heads.box_predictor.cls_score
    bias = torch.full_like(layer.bias, value, dtype=torch.complex64 if word == "complex" else torch.float32)
    layer.bias = torch.nn.Parameter(bias)
    with pytest.raises(dc.WeightsError, match=f"weight that is {word}, in 'roi_heads"):
        dc.load_detector(module, class_names=CLASS_NAMES, device="cpu")


def test_unknown_detectors_and_devices_are_refused(lamps):
    with pytest.raises(dc.InputError, match="must be one of 'yolox_nano', 'yolox_tiny'"):
        dc.load_detector("yolo_v99")
    for device in ("gpu7", "meta", 3.5):
        with pytest.raises(dc.InputError, match="device"):
            dc.load_detector("yolox_nano", device=device)
    with pytest.raises(dc.InputError, match="detector must be"):
        dc.load_detector(["yolox_nano"])
    with pytest.raises(dc.InputError, match=r"'my_detrr' is no folder; .* or the path of a network"):
        dc.load_detector(Path("my_detrr"))
    with pytest.raises(dc.InputError, match="'' cannot be used as a path: it is empty"):
        dc.load_detector("")  # not the current folder
    with pytest.raises(dc.InputError, match="a Detector takes no device"):
        dc.load_detector(lamps, device="cpu")
    assert dc.load_detector(lamps) is lamps


def test_the_sums_are_those_of_six_different_files():
    assert len(set(weights.OFFICIAL.values())) == 6
    assert all(len(bytes.fromhex(digest)) == 32 for digest in weights.OFFICIAL.values())


# -- what ships


@pytest.mark.parametrize("name", ["planted", "planted_two_stage"])
def test_what_ships_is_loaded_and_small(name):
    path = weights.shipped_path(name)
    detector = dc.load_detector(name, device="cpu")
    assert detector.provenance["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detector.provenance["weights_official"] and detector.provenance["weights"] == path.name
    assert path.stat().st_size <= {"planted": 2_500_000, "planted_two_stage": 8_000_000}[name]


def test_damaged_weights_are_named_with_both_sums(tmp_path):
    source = weights.shipped_path("planted")
    path = tmp_path / "planted.safetensors"
    for ending in (".json", ".safetensors"):
        (tmp_path / f"planted{ending}").write_bytes(source.with_suffix(ending).read_bytes())
    assert weights.load_shipped(path).sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    damaged = bytearray(source.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    wanted, found = (hashlib.sha256(content).hexdigest() for content in (source.read_bytes(), damaged))
    with pytest.raises(dc.WeightsError, match=f"its sha256 is {found}, expected {wanted}") as caught:
        networks.load("planted", device=torch.device("cpu"), folder=tmp_path)
    assert "\n" not in str(caught.value)
    path.write_bytes(source.read_bytes()[:1000])
    cut = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(f'{{"sha256": "{cut}"}}')
    with pytest.raises(dc.WeightsError, match="cannot be read as weights"):
        weights.load_shipped(path)
    for manifest in ("{}", "no json", "[]", "[" * 100_000):
        path.with_suffix(".json").write_text(manifest)
        with pytest.raises(dc.WeightsError, match="cannot be read"):
            weights.load_shipped(path)
    path.unlink()
    with pytest.raises(dc.WeightsError, match="cannot be read"):
        weights.load_shipped(path)
    with pytest.raises(dc.InputError, match="name must be one of 'planted'"):
        networks.load("plants", device=torch.device("cpu"))


def test_shipped_weights_of_another_network_are_refused(tmp_path):
    for ending in (".json", ".safetensors"):
        content = weights.shipped_path("planted").with_suffix(ending).read_bytes()
        (tmp_path / f"planted_two_stage{ending}").write_bytes(content)
    with pytest.raises(dc.WeightsError, match="does not hold the weights of planted_two_stage"):
        networks.load("planted_two_stage", device=torch.device("cpu"), folder=tmp_path)


def test_a_proxy_that_cannot_be_used_is_no_wrong_file(empty_home, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://127.0.0.1:9")
    with pytest.raises(dc.WeightsError, match="could not be fetched") as caught:
        dc.load_detector("yolox_nano")
    assert "thrown away" not in str(caught.value)
