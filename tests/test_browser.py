"""The explorer as a person meets it: JupyterLab in headless Chromium, a click, a key, a photo.

Times are written beside a screenshot to ``test-artifacts``, and nothing is asked of them.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import requests
from PIL import Image
from toys import weights_at_hand

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
ARTIFACTS = Path(__file__).parent.parent / "test-artifacts"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EXAMPLE = ("yolox_nano", "motorcycle") if weights_at_hand() else ("planted", "scene_3")
CELL = f"import dclose_nb as dc\nexplorer = dc.explore(*{EXAMPLE!r})\nexplorer"
WAIT = 60_000  # ms; machines that run tests may be busy
RUN = "void window.jupyterapp.commands.execute('notebook:run-all-cells')"
# The message of a changed picture comes from the page itself, so that no polling adds to its time.
CHANGED = """([panel, before]) => new Promise(found => {
  const image = document.querySelectorAll('.dclose-picture img')[panel];
  const look = () => { if (image.src !== before && image.naturalWidth) found(performance.now()); };
  new MutationObserver(look).observe(image, {attributes: true}); image.addEventListener('load', look); look();
})"""
GROWN = """least => {
  const said = document.querySelector('.dclose-explorer [role=status]').innerText;
  return Number(said.match(/(\\d+) masks so far/)?.[1]) > least;
}"""
SAID = """text => new Promise(found => {
  const code = document.querySelector('.dclose-explorer textarea');
  const look = () => code.value.includes(text) ? found(performance.now()) : requestAnimationFrame(look);
  look();
})"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a folder with one notebook: its address and the folder."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(CELL)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "explorer.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    own = {
        f"JUPYTER_{what}_DIR": str(tmp_path_factory.mktemp(what)) for what in ("CONFIG", "DATA", "RUNTIME")
    }
    options = f"--no-browser --allow-root --ip=127.0.0.1 --port={port} --expose-app-in-browser".split()
    command = [sys.executable, "-m", "jupyterlab", *options, f"--IdentityProvider.token={token}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + WAIT / 1000
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{address}/api", timeout=10)
                break
            assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield address, token, folder
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the distribution's package")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(lab, browser):
    """The notebook with the explorer on it, one that is ready for a click."""
    address, token, _ = lab
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(WAIT)
    page.goto(f"{address}/lab/tree/explorer.ipynb?token={token}&reset")
    ready(page)
    return page


def ready(page):
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-CodeCell")
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel")
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate(RUN)
    page.wait_for_selector(".dclose-picture button.dclose-box")


def click(page, k):
    """On the corner of the k-th box from the largest: smaller ones lie on top of it."""
    page.locator("button.dclose-box").nth(k).click(position={"x": 5, "y": 5})


def status(page):
    return page.locator(".dclose-explorer [role=status]").inner_text()


def says(page, text):
    try:
        page.wait_for_function(
            "text => document.querySelector('.dclose-explorer [role=status]').innerText.includes(text)",
            arg=text,
        )
    except playwright.TimeoutError:
        pytest.fail(f"no {text!r}, but {status(page)!r}")
    return status(page)


def masks(page, number):
    field = page.get_by_label("masks", exact=True)
    field.fill(str(number))
    field.press("Enter")


def upload(page, file):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Another photo").click()
    chooser.value.set_files(file)


def picture(page, panel):
    return page.locator(".dclose-picture img").nth(panel).get_attribute("src")


def until_changed(page, panel, act):
    """Seconds from an act to another picture on a panel: 0 the photo, 1 and 2 the maps."""
    before = picture(page, panel)
    start = page.evaluate("performance.now()")
    act()
    return (page.evaluate(CHANGED, [panel, before]) - start) / 1000


def note(**measured):
    """Keep what was measured beside the screenshot."""
    ARTIFACTS.mkdir(exist_ok=True)
    file = ARTIFACTS / "explorer.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | {"example": EXAMPLE} | measured, indent=2) + "\n")


def test_a_click_on_a_box_shows_a_map_that_sharpens(page):
    masks(page, 100_000)
    first = until_changed(page, 1, lambda: click(page, 0))
    passes = int(re.search(r"(\d+) masks", says(page, "masks so far"))[1])
    page.wait_for_function(GROWN, arg=passes)
    assert 0 < passes < 100_000
    note(first_map_s=round(first, 2), first_map_masks=passes)


def test_a_control_answers_while_masks_run(page):
    """By keys alone: the map is drawn anew, and the code, which comes after it, says so."""
    page.locator(".widget-slider", has_text="opacity").get_by_role("slider").focus()
    answers = []
    for key, opacity in (("Home", "0"), ("ArrowRight", "0.05"), ("ArrowRight", "0.1"), ("End", "1")):
        start = page.evaluate("performance.now()")
        page.keyboard.press(key)
        answers.append(page.evaluate(SAID, f"opacity={opacity})") - start)
    assert "so far" in status(page)
    note(control_ms=[round(one) for one in answers])


def test_stop_keeps_the_map_so_far(page):
    page.get_by_role("button", name="Stop").click()
    assert re.search(r"stopped after \d+ masks", says(page, "stopped after"))
    assert page.get_by_role("button", name="Stop").is_disabled()
    until_drawn = page.locator(".dclose-picture img").nth(1)
    assert until_drawn.evaluate("image => image.naturalWidth") > 100


def test_two_clicks_in_a_row_show_the_second(page):
    boxes = page.locator("button.dclose-box")
    click(page, 0)
    masks(page, 60)
    click(page, 1)
    says(page, f"{boxes.nth(1).inner_text()}, dclose: done: 60")


def test_a_click_beside_every_box_says_so(page):
    page.locator(".dclose-picture .dclose-ground").click(position={"x": 2, "y": 2})
    assert says(page, "no box here")


def test_the_steps_open_and_the_whole_is_kept_as_a_picture(page):
    page.get_by_label("beside it").select_option("drise")
    says(page, "drise: done")
    titles = page.locator(".jupyter-widget-Collapse-header")
    assert titles.count() == 7
    titles.nth(6).click()
    page.wait_for_function(
        "[...document.querySelectorAll('.widget-accordion img, .jupyter-widget-Accordion img')]"
        ".some(image => image.naturalWidth > 300)"
    )
    ARTIFACTS.mkdir(exist_ok=True)
    page.locator(".dclose-explorer").screenshot(path=ARTIFACTS / "explorer.png")
    assert np.ptp(np.asarray(Image.open(ARTIFACTS / "explorer.png").convert("L"))) > 100


def test_export_writes_figures_and_maps(page, lab):
    *_, folder = lab
    page.locator(".dclose-explorer button", has_text="Save").click()
    says(page, "Saved in")
    kept = folder / "explanations" / "explorer"
    assert (kept / "manifest.json").is_file() and list(kept.glob("*.png"))


def test_a_photo_that_is_none_is_refused_and_one_of_40_megapixels_is_taken(page, tmp_path):
    (tmp_path / "letter.png").write_bytes(b"Dear detector,")
    upload(page, tmp_path / "letter.png")
    assert "'letter.png' is not an image" in says(page, "letter.png")
    Image.new("RGB", (8000, 5000), "gray").save(tmp_path / "wall.jpg")
    upload(page, tmp_path / "wall.jpg")
    assert "shrunk to" in says(page, "shrunk")


def test_it_works_again_after_a_restart_of_the_kernel(page, lab):
    address, token, _ = lab
    (kernel,) = requests.get(f"{address}/api/kernels", params={"token": token}, timeout=20).json()
    restart = f"{address}/api/kernels/{kernel['id']}/restart"
    requests.post(restart, params={"token": token}, timeout=60).raise_for_status()
    page.wait_for_timeout(2000)
    ready(page)
    masks(page, 20)
    click(page, 0)
    assert "done:" in says(page, "done:")
