"""A film of the explorer for the README and the book, and a picture for notebook 12: run by `make film`.

It opens JupyterLab in headless Chromium, clicks two boxes, and keeps what the explorer shows.
"""

import contextlib
import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import Error, Page, sync_playwright

FILM = Path(__file__).parent / "explorer.gif"
STILL = FILM.parents[1] / "dclose_nb" / "assets" / "explorer.jpg"
CELL = 'import dclose_nb as dc\n\ndc.explore("yolox_nano", "motorcycle")'
WINDOW = {"width": 1280, "height": 720}
WIDTH = 860  # pixels of the film, about those of a README's column
COLOURS = 255
EVERY = 0.25  # seconds between two pictures
GROWING = 12  # pictures of a map that grows, however long it took
LAST = 2  # seconds that a finished map stays
HIDDEN = ".Toastify, #jp-main-statusbar {display: none}"  # JupyterLab's news and its status
POINTER = """() => document.body.insertAdjacentHTML('beforeend', `<svg id="pointer" width="22" height="30"
  style="position: fixed; z-index: 9999; pointer-events: none">
  <path d="M1 1v22l5-5 4 10 4-2-4-9h8z" fill="white" stroke="black" stroke-width="1.5"/></svg>`)"""
POINT = """([x, y]) => {
  const { style } = document.getElementById('pointer'); style.left = x + 'px'; style.top = y + 'px';
}"""
DONE = """() => [...document.querySelectorAll('.dclose-explorer button')]
  .find(button => button.innerText.includes('Stop')).disabled"""


class Film:
    """Pictures of a part of a page, each with the milliseconds that it stays."""

    def __init__(self, page: Page, part: dict[str, float]) -> None:
        self.page, self.part = page, part
        self.pictures: list[Image.Image] = []
        self.stays: list[int] = []
        self.pointer = (part["x"] + 0.6 * part["width"], part["y"] + 0.9 * part["height"])

    def take(self, seconds: float) -> None:
        """Take a picture; one that nothing has changed in stays longer instead."""
        content = self.page.screenshot(clip=self.part)
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        picture = picture.resize(
            (WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS
        )
        if self.pictures and picture.tobytes() == self.pictures[-1].tobytes():
            self.stays[-1] += round(1000 * seconds)
        else:
            self.pictures.append(picture)
            self.stays.append(round(1000 * seconds))

    def click(self, x: float, y: float, steps: int = 5) -> None:
        """Move the pointer to a place of the page, seen by all, and click there."""
        (x0, y0), self.pointer = self.pointer, (x, y)
        for k in range(1, steps + 1):
            place = x0 + (x - x0) * k / steps, y0 + (y - y0) * k / steps
            self.page.evaluate(POINT, place)
            self.page.mouse.move(*place)
            self.take(0.08)
        self.page.mouse.click(x, y)

    def until_done(self) -> None:
        """Film a map until it is finished."""
        self.page.wait_for_function(f"() => !({DONE})()")
        first = len(self.pictures)
        while not self.page.evaluate(DONE):
            self.take(EVERY)
        grown = self.pictures[first:]
        kept = sorted({k * len(grown) // GROWING for k in range(GROWING)}) if grown else []
        self.pictures[first:] = [grown[k] for k in kept]
        self.stays[first:] = [round(1000 * EVERY)] * len(kept)
        self.page.wait_for_timeout(500)
        self.take(LAST)

    def save(self, path: Path) -> None:
        """Write a GIF whose pictures share the colours of three of them, and those of a map."""
        height = self.pictures[0].height
        some = Image.new("RGB", (WIDTH, 4 * height))
        for k in range(3):
            some.paste(self.pictures[k * (len(self.pictures) - 1) // 2], (0, k * height))
        heat = Image.fromarray(np.uint8(255 * colormaps["inferno"](np.linspace(0, 1, WIDTH))[None, :, :3]))
        some.paste(heat.resize((WIDTH, height)), (0, 3 * height))
        palette = some.quantize(COLOURS)
        frames = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in self.pictures]
        more = {"save_all": True, "append_images": frames[1:], "duration": self.stays, "loop": 0}
        frames[0].save(path, optimize=True, **more)


def film(page: Page) -> Film:
    """Click the largest box, then the smallest, and film what comes."""
    page.wait_for_selector(".dclose-picture button.dclose-box")
    page.add_style_tag(content=HIDDEN)
    page.evaluate(POINTER)
    page.wait_for_timeout(2000)
    explorer = page.locator(".dclose-explorer")
    explorer.evaluate("explorer => explorer.scrollIntoView()")
    part = explorer.bounding_box()
    assert part is not None
    part["x"], part["width"] = part["x"] - 8, part["width"] + 8
    code = explorer.locator("textarea").bounding_box()
    assert code is not None
    part["height"] = min(code["y"], WINDOW["height"]) - part["y"]
    shown = Film(page, part)
    page.evaluate(POINT, shown.pointer)
    shown.take(LAST)
    boxes = page.locator("button.dclose-box")
    for k in (0, boxes.count() - 1):
        box = boxes.nth(k).bounding_box()
        assert box is not None
        shown.click(box["x"] + min(14, box["width"] / 2), box["y"] + min(30, box["height"] / 2))
        shown.until_done()
    return shown


def main() -> None:
    """Start JupyterLab on a folder of its own, film, and stop it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium is missing: install it with the system's package manager.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        cells = [nbformat.v4.new_code_cell(CELL)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), Path(name) / "explorer.ipynb")
        own = {f"JUPYTER_{what}_DIR": f"{name}/{what}" for what in ("CONFIG", "DATA", "RUNTIME")}
        token = secrets.token_hex()
        options = f"--no-browser --allow-root --ip=127.0.0.1 --port={port} --expose-app-in-browser".split()
        command = [sys.executable, "-m", "jupyterlab", *options, f"--IdentityProvider.token={token}"]
        server = subprocess.Popen(command, cwd=name, env=os.environ | own, stderr=subprocess.DEVNULL)
        try:
            page = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(
                viewport=WINDOW
            )
            page.set_default_timeout(60_000)
            address = f"http://127.0.0.1:{port}/lab/tree/explorer.ipynb?token={token}&reset"
            for _ in range(120):
                with contextlib.suppress(Error):  # until the server is there
                    page.goto(address)
                    break
                page.wait_for_timeout(500)
            page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
            page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.ready")
            page.evaluate("void window.jupyterapp.commands.execute('application:toggle-left-area')")
            page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
            shown = film(page)
            shown.save(FILM)
            shown.pictures[-1].save(STILL, quality=85, optimize=True)
        finally:
            server.terminate()
            server.wait(20)
    print(f"{FILM}  {FILM.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
