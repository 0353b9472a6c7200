"""The page of an explanation: all in one file, harmless whatever it is given, and the maps are the maps."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from toys import Lamps

import dclose_nb as dc
from dclose_nb import page, report
from dclose_nb.fusion import min_max


@pytest.fixture
def found(lamps, lit):
    return dc.explain(lamps, lit, n_masks=20, segments=(4, 8), progress=False)


class Page(HTMLParser):
    """Every tag with its attributes, and the text between tags by the innermost tag."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.last = [], {}, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.last = tag

    def handle_data(self, data):
        self.text.setdefault(self.last, []).append(data)

    def all(self, tag, **wanted):
        return [own for name, own in self.tags if name == tag and wanted.items() <= own.items()]


def saved(explanation, folder, **options):
    return Page(report.write(explanation, folder, **options) / "report.html")


def picture(address):
    kind, content = re.fullmatch(r"data:image/(\w+);base64,(.+)", address).groups()
    opened = Image.open(io.BytesIO(base64.b64decode(content)))
    assert opened.format.lower() == kind
    return opened


def test_every_object_has_every_layer_as_it_was_computed(found, lit, tmp_path):
    made = saved(found, tmp_path)
    assert np.abs(np.asarray(picture(made.all("img")[0]["src"]), float) - lit).mean() < 10
    for layer, maps in enumerate([found.saliency, *found.levels]):
        for k, one in enumerate(maps):
            (heat,) = made.all("img", **{"data-layer": str(layer), "data-object": str(k)})
            drawn = picture(heat["src"])
            assert drawn.mode == "P" and np.abs(np.asarray(drawn) / 255 - min_max(one)).max() <= 0.5 / 255
            assert ("hidden" in heat) == ((layer, k) != (0, 0))
    lowest, highest = (drawn.convert("RGBA").getpixel(place) for place in corners(np.asarray(drawn)))
    assert lowest[3] == 0 and highest[3] == 255


def corners(values):
    """Where a map is lowest and highest, as (x, y)."""
    return [tuple(np.unravel_index(at, values.shape))[::-1] for at in (values.argmin(), values.argmax())]


def test_the_table_has_the_numbers_and_switches_the_objects(found, tmp_path):
    made = saved(found, tmp_path)
    assert [own["value"] for own in made.all("input", name="object", type="radio")] == ["0", "1"]
    assert [own["value"] for own in made.all("input", name="layer", type="radio")] == ["0", "1", "2", "none"]
    assert made.all("input", type="range") and made.all("input", type="checkbox")
    cells = [text.strip() for text in made.text["td"] + made.text["input"]]
    for k in range(2):
        box = found.detections.boxes[k]
        expected = (
            f"{dc.metrics.sparsity(found.saliency[k]):.1f}",
            f"{dc.metrics.ebpg(found.saliency[k], box):.2f}",
        )
        assert {found.detections.names[k], f"{found.detections.scores[k]:.2f}", *expected} <= set(cells)
    boxes = [(float(own["x"]), float(own["width"])) for own in made.all("rect")[1::2]]
    assert boxes == [(1, 6), (10, 8)]


def test_nothing_is_loaded_and_nothing_else_may_run(found, tmp_path):
    content = (found.save(tmp_path) / "report.html").read_text()
    made = Page(tmp_path / "report.html")
    addresses = [value for _, own in made.tags for name, value in own.items() if name in ("src", "href")]
    assert addresses and all(one.startswith("data:image/") for one in addresses)
    assert not any(name.startswith("on") or name == "style" for _, own in made.tags for name in own)
    (policy,) = (own["content"] for own in made.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", content, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'


def test_names_from_outside_stay_text(lit, tmp_path):
    class Evil(Lamps):
        def __init__(self):
            super().__init__([[1, 1, 7, 9]], [[1.0]])
            self.name, self.class_names = EVIL + " detector", (EVIL,)
            self.provenance = {"weights_sha256": EVIL}

    explanation = dc.explain(Evil(), lit, n_masks=10, progress=False)
    tame = saved(
        dc.explain(Lamps([[1, 1, 7, 9]], [[1.0]]), lit, n_masks=10, progress=False), tmp_path / "tame"
    )
    made = saved(explanation, tmp_path / "evil", photo=EVIL + "\udcff.png")  # a name that is no UTF-8
    assert [tag for tag, _ in made.tags] == [tag for tag, _ in tame.tags]
    texts = [text for parts in made.text.values() for text in parts]
    assert sum(EVIL in text for text in texts) >= 5  # title, heading, table, detector, weights
    assert any("\ufffd.png" in text for text in made.text["h1"])


def test_a_photo_without_objects_has_a_page_too(lamps, lit, tmp_path):
    made = saved(dc.explain(lamps, np.zeros_like(lit), n_masks=10, progress=False), tmp_path)
    assert "no object was found" in made.text["h1"][0]
    assert len(made.all("img")) == 1 and not made.all("script") and not made.all("input")


def test_methods_without_levels_have_one_layer(lamps, lit, tmp_path):
    drise = dc.explain(lamps, lit, method="drise", n_masks=10, progress=False)
    assert len(saved(drise, tmp_path).all("img", **{"class": "heat"})) == 2


def test_an_error_that_is_known_is_shown(lamps, lit, tmp_path):
    with pytest.warns(UserWarning, match="masks a map's error"):
        rough = dc.explain(lamps, lit, n_masks=40, segments=(4, 8), tolerance=0.01, progress=False)
    made = saved(rough, tmp_path)
    assert "relative error" in made.text["th"]
    assert f"{rough.relative_error[0]:.2f}" in made.text["td"]


def test_a_document_without_a_script_allows_none():
    assert "script-src 'none'" in page.document("a", "<p>b</p>")
