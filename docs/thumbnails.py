"""Small pictures of the notebooks, one of each, for the README: run by `make notebooks`."""

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

SIZE = (240, 160)
DOCS = Path(__file__).parent


def figures(path: Path) -> list[Image.Image]:
    """The pictures among a notebook's outputs."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    found = [output["data"]["image/jpeg"] for output in outputs if "image/jpeg" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(jpeg))).convert("RGB") for jpeg in found]


def thumbnail(path: Path) -> Image.Image:
    """The figure that loses least when it is shrunk: the one nearest to a thumbnail's shape."""
    best = min(figures(path), key=lambda figure: abs(figure.width / figure.height - SIZE[0] / SIZE[1]))
    best.thumbnail(SIZE, Image.Resampling.LANCZOS)
    return best.quantize(128)


if __name__ == "__main__":
    (DOCS / "thumbnails").mkdir(exist_ok=True)
    for path in sorted(DOCS.parent.glob("notebooks/*.ipynb")):
        thumbnail(path).save(DOCS / "thumbnails" / f"{path.stem}.png", optimize=True)
