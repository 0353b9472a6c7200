"""The command `dclose-nb`."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .explanation import Explanation
    from .images import Example

NOTHING = "nothing was written"  # what a stopped command leaves


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    args = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what a terminal cannot show
    try:
        return _run(args)
    except KeyboardInterrupt:
        print(f"\ndclose-nb: stopped; {args.left}", file=sys.stderr)
        return 130
    except ImportError as error:
        print(f"dclose-nb: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    """Run a command; what a user can mend is one line, anything else keeps its traceback."""
    from .checks import InputError
    from .detectors import WeightsError

    try:
        return args.run(args)
    except (InputError, WeightsError) as error:
        print(f"dclose-nb: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dclose-nb", description="Explain what an object detector saw.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="explain the detections in a photo",
        description="Write an overlay for each detection, a sheet with all, the maps and a manifest.",
    )
    explain.add_argument(
        "photo", metavar="PHOTO", help="an image file, a photo that ships (coffee, ...), or scene_7, ..."
    )
    explain.add_argument(
        "--detector",
        default="yolox_nano",
        help="yolox_nano (default) to yolox_x, or a YOLOX export FILE.onnx; planted or planted_two_stage "
        "for scenes",
    )
    explain.add_argument(
        "--method", default="dclose", help="dclose (default), contrast, drise, mfpp, gradcam or sodex"
    )
    explain.add_argument("--n-masks", type=int, metavar="N", help="masked images; default: the method's own")
    explain.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    explain.add_argument("--top", type=int, metavar="K", help="only the K best detections")
    explain.add_argument(
        "--html", action="store_true", help="write report.html too, a page with switchable layers"
    )
    explain.add_argument("--out", type=Path, metavar="DIR", help="default: explanations/PHOTO_METHOD")
    explain.set_defaults(run=_explain, left=NOTHING)
    demo = commands.add_parser(
        "demo",
        help="explain a photo that ships, or a drawn scene where no weights can be had",
        description="As explain, with a photo that ships, or with a scene where weights are missing.",
    )
    demo.add_argument("--out", type=Path, metavar="DIR", default=Path("demo"), help="default: %(default)s")
    demo.set_defaults(run=_demo, left=NOTHING)
    evaluate = commands.add_parser(
        "evaluate",
        help="score methods on a data set in COCO format",
        description="Score methods on a data set; a run that was stopped goes on with the same command.",
    )
    evaluate.add_argument(
        "--coco", type=Path, metavar="DIR", required=True, help="holds val2017/ and annotations/"
    )
    evaluate.add_argument("--detector", default="yolox_nano", help="default: %(default)s")
    evaluate.add_argument(
        "--methods",
        default="dclose,drise,gradcam",
        help="of dclose, drise, mfpp, gradcam, sodex, segments+density, segments+fusion (%(default)s)",
    )
    evaluate.add_argument("--n-masks", type=int, metavar="N", help="default: each method's own")
    evaluate.add_argument("--steps", type=int, metavar="N", help="of deletion and insertion; default: 205")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N images, in random order")
    evaluate.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    evaluate.add_argument("--workers", type=int, default=1, metavar="K", help="processes; default: 1")
    evaluate.add_argument("--skip-missing", action="store_true", help="go on without images that are missing")
    evaluate.add_argument("--out", type=Path, metavar="DIR", required=True, help="records and tables")
    evaluate.set_defaults(run=_evaluate, left="the same command goes on from there")
    tables = commands.add_parser("tables", help="print and write the tables of an evaluation")
    tables.add_argument("folder", type=Path, metavar="DIR", help="what evaluate wrote to")
    tables.set_defaults(run=_tables, left=NOTHING)
    figures = commands.add_parser(
        "figures",
        help="make the paper's figures",
        description="Make the paper's Figures 1 to 10 as PDF and PNG, and a page that shows them. "
        "A run that was stopped goes on with the same command.",
    )
    figures.add_argument("--coco", type=Path, metavar="DIR", help="look for cases in a folder of COCO")
    figures.add_argument(
        "--photo", nargs="+", default=[], metavar="PHOTO", help="use these photos; default: those that ship"
    )
    figures.add_argument("--detector", default="yolox_nano", help="default: %(default)s")
    figures.add_argument("--n-masks", type=int, metavar="N", help="for each map; default: the paper's")
    figures.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    figures.add_argument("--only", type=int, nargs="+", metavar="K", help="only these figures")
    figures.add_argument("--out", type=Path, metavar="DIR", required=True)
    figures.set_defaults(run=_figures, left="the same command goes on from there")
    fetch = commands.add_parser("fetch", help="fetch a detector's weights, for use without a network")
    fetch.add_argument("detector", metavar="NAME", help="yolox_nano to yolox_x")
    fetch.set_defaults(run=_fetch, left=NOTHING)
    return parser


def _fetch(args: argparse.Namespace) -> int:
    from .detectors import weights

    path = weights.path_of(args.detector)
    if not path.exists():
        weights.load(args.detector)
    print(f"{args.detector}: {path}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    import dclose_nb as dc

    from . import checks
    from .explanation import parameters
    from .images import Example

    if args.top is not None:
        checks.at_least("--top", args.top, 1)
    options = {"method": args.method, "n_masks": args.n_masks, "seed": args.seed}
    parameters(**options)
    image = dc.load_photo(args.photo)

    def situation() -> Example:
        detector = dc.load_detector(args.detector)
        return Example(detector, image, detector.detect(image)[: args.top])

    out = args.out or Path("explanations") / f"{Path(args.photo).stem}_{args.method}"
    return _write(out, situation, args.photo, html=args.html, **options)


def _demo(args: argparse.Namespace) -> int:
    import dclose_nb as dc

    return _write(
        args.out, lambda: dc.load_example("overlap"), "the example 'overlap'", html=True, n_masks=1000
    )


def _evaluate(args: argparse.Namespace) -> int:
    from .metrics import STEPS
    from .studies.coco import read_coco
    from .studies.evaluation import evaluate

    _show_warnings()
    data = read_coco(args.coco, missing="skip" if args.skip_missing else "stop")
    if data.missing:
        print(f"{len(data.missing)} images are missing and left out", file=sys.stderr)
    evaluate(
        args.detector,
        data,
        args.out,
        methods=args.methods.split(","),
        n_masks=args.n_masks,
        steps=STEPS if args.steps is None else args.steps,
        seed=args.seed,
        limit=args.limit,
        workers=args.workers,
    )
    return _tables(argparse.Namespace(folder=args.out))


def _tables(args: argparse.Namespace) -> int:
    from .studies import tables

    _show_warnings()
    print(tables.write(args.folder))
    print(f"{args.folder}/  tables.md, tables.tex, table_1.csv to table_3.csv")
    return 0


def _figures(args: argparse.Namespace) -> int:
    import matplotlib

    matplotlib.use("agg")
    from .paper import gallery

    _show_warnings()
    numbers = list(gallery.FIGURES) if args.only is None else args.only
    records = gallery.make(
        args.out,
        detector=args.detector,
        coco=args.coco,
        photos=args.photo,
        n_masks=args.n_masks,
        seed=args.seed,
        only=numbers,
    )
    for number in sorted(set(numbers)):
        record = records[number]
        print(f"figure {number}: {', '.join(record['files']) or 'missing'}")
        for note in record["notes"]:
            print(f"    {note}")
    print(f"\n{args.out}/  {gallery.GALLERY}, {gallery.RECORDS}, maps/")
    return 0


def _show_warnings() -> None:
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)


def _write(out: Path, situation: Callable[[], Example], photo: str, *, html: bool, **options: Any) -> int:
    """Explain what `situation` gives, into a folder that is known to be writable before."""
    import matplotlib

    matplotlib.use("agg")
    import dclose_nb as dc

    from . import report

    _show_warnings()
    with report.staged(out, html=html) as stage:
        detector, image, targets = situation()
        explanation = dc.explain(detector, image, targets, **options)
        explanation = replace(explanation, n_forward=explanation.n_forward + 1)  # the detection before
        report.fill(stage, explanation, photo=photo, html=html)
    _print_table(explanation)
    if not len(explanation):
        print("no object was found (confidence 0.25 or more), so there is nothing to explain")
    print(f"\n{out}/  sheet.png, overlays, {'report.html, ' * html}maps.npz, manifest.json")
    return 0


def _print_table(explanation: Explanation) -> None:
    from . import report

    row = "{:<16} {:>5}  {:<8} {:>7} {:>8}  {}"
    print(row.format("object", "score", "method", "passes", "seconds", "overlay"))
    for k, (name, score) in enumerate(zip(explanation.detections.names, explanation.detections.scores)):
        print(
            row.format(
                name,
                f"{score:.2f}",
                explanation.method,
                explanation.n_forward,
                f"{explanation.seconds:.1f}",
                report.overlay_name(explanation, k) + ".png",
            )
        )
