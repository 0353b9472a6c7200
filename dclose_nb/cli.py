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

import dclose_nb as dc  # each name is imported when it is first used: `--help` answers at once

if TYPE_CHECKING:
    from .explanation import Explanation
    from .images import Example

RESUMES = "the same command goes on from there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 2 for bad input, 130 for Ctrl-C.

    What a user can mend is said in one line. Anything else keeps its traceback.
    """
    args = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what a terminal cannot show
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print(f"\ndclose-nb: stopped; {args.left}", file=sys.stderr)
        return 130
    except ImportError as error:
        print(f"dclose-nb: {error}", file=sys.stderr)
        return 2
    except (dc.InputError, dc.WeightsError) as error:
        print(f"dclose-nb: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dclose-nb", description="Explain what an object detector saw.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add(
        "--detector",
        default="yolox_nano",
        help="yolox_nano (default) to yolox_x, or a YOLOX export FILE.onnx; planted or planted_two_stage "
        "for scenes",
    )
    add("--n-masks", type=int, metavar="N", help="masked images for a map; default: each method's own")
    add("--seed", type=int, default=0, metavar="S", help="default: %(default)s")

    explain = commands.add_parser(
        "explain",
        parents=[shared],
        help="explain the detections in a photo",
        description="Write an overlay for each detection, a sheet with all, the maps and a manifest.",
    )
    add = explain.add_argument
    add("photo", metavar="PHOTO", help="an image file, a photo that ships (coffee, ...), or scene_7, ...")
    add("--method", default="dclose", help="dclose (default), contrast, drise, mfpp, gradcam or sodex")
    add("--top", type=int, metavar="K", help="only the K best detections")
    add("--html", action="store_true", help="write report.html too, a page with switchable layers")
    add("--out", type=Path, metavar="DIR", help="default: explanations/PHOTO_METHOD")

    demo = commands.add_parser(
        "demo",
        help="explain a photo that ships, or a drawn scene where no weights can be had",
        description="As explain, with a photo that ships, or with a scene where weights are missing.",
    )
    demo.add_argument("--out", type=Path, metavar="DIR", default=Path("demo"), help="default: %(default)s")

    evaluate = commands.add_parser(
        "evaluate",
        parents=[shared],
        help="score methods on a data set in COCO format",
        description="Score methods on a data set; a run that was stopped goes on with the same command.",
    )
    add = evaluate.add_argument
    add("--coco", type=Path, metavar="DIR", required=True, help="holds val2017/ and annotations/")
    add(
        "--methods",
        default="dclose,drise,gradcam",
        help="of dclose, drise, mfpp, gradcam, sodex, segments+density, segments+fusion (%(default)s)",
    )
    add("--steps", type=int, default=205, metavar="N", help="of deletion and insertion; default: %(default)s")
    add("--limit", type=int, metavar="N", help="only the first N images, in random order")
    add("--workers", type=int, default=1, metavar="K", help="processes; default: %(default)s")
    add("--skip-missing", action="store_true", help="go on without images that are missing")
    add("--out", type=Path, metavar="DIR", required=True, help="records and tables")

    tables = commands.add_parser("tables", help="print and write the tables of an evaluation")
    tables.add_argument("folder", type=Path, metavar="DIR", help="what evaluate wrote to")

    figures = commands.add_parser(
        "figures",
        parents=[shared],
        help="make the paper's figures",
        description="Make the paper's Figures 1 to 10 as PDF and PNG, and a page that shows them. "
        "A run that was stopped goes on with the same command.",
    )
    add = figures.add_argument
    add("--coco", type=Path, metavar="DIR", help="look for cases in a folder of COCO")
    add("--photo", nargs="+", default=[], metavar="PHOTO", help="use these; default: photos that ship")
    add("--only", type=int, nargs="+", metavar="K", help="only these figures")
    add("--out", type=Path, metavar="DIR", required=True)

    fetch = commands.add_parser("fetch", help="fetch a detector's weights, for use without a network")
    fetch.add_argument("detector", metavar="NAME", help="yolox_nano to yolox_x")

    for command, run in (
        (explain, _explain),
        (demo, _demo),
        (evaluate, _evaluate),
        (tables, _tables),
        (figures, _figures),
        (fetch, _fetch),
    ):
        resumes = command in (evaluate, figures)
        command.set_defaults(run=run, left=RESUMES if resumes else "nothing was written")
    return parser


def _fetch(args: argparse.Namespace) -> int:
    from .detectors import weights

    path = weights.path_of(args.detector)
    if not path.exists():
        weights.load(args.detector)
    print(f"{args.detector}: {path}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    from . import checks, methods
    from .images import Example

    if args.top is not None:
        checks.at_least("--top", args.top, 1)
    checks.at_least("seed", args.seed, 0)
    methods.make(args.method, n_masks=args.n_masks)
    image = dc.load_photo(args.photo)

    def situation() -> Example:
        detector = dc.load_detector(args.detector)
        return Example(detector, image, detector.detect(image)[: args.top])

    out = args.out or Path("explanations") / f"{Path(args.photo).stem}_{args.method}"
    options = {"method": args.method, "n_masks": args.n_masks, "seed": args.seed}
    return _write(out, situation, args.photo, html=args.html, **options)


def _demo(args: argparse.Namespace) -> int:
    photo = "the example 'overlap'"
    return _write(args.out, lambda: dc.load_example("overlap"), photo, html=True, n_masks=1000)


def _evaluate(args: argparse.Namespace) -> int:
    from .studies import coco, evaluation

    _show_warnings()
    data = coco.read_coco(args.coco, missing="skip" if args.skip_missing else "stop")
    if data.missing:
        print(f"{len(data.missing)} images are missing and left out", file=sys.stderr)
    evaluation.evaluate(
        args.detector,
        data,
        args.out,
        methods=args.methods.split(","),
        n_masks=args.n_masks,
        steps=args.steps,
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
    from . import reports

    _show_warnings()
    with reports.staged(out, html=html) as stage:
        detector, image, targets = situation()
        explanation = dc.explain(detector, image, targets, **options)
        explanation = replace(explanation, n_forward=explanation.n_forward + 1)  # the detection before
        reports.write(stage, explanation, photo=photo, html=html)
    _print_table(explanation, [reports.overlay_name(explanation, k) for k in range(len(explanation))])
    if not len(explanation):
        print("no object was found (confidence 0.25 or more), so there is nothing to explain")
    print(f"\n{out}/  sheet.png, overlays, {'report.html, ' * html}maps.npz, manifest.json")
    return 0


def _print_table(explanation: Explanation, overlays: Sequence[str]) -> None:
    row = "{:<16} {:>5}  {:<8} {:>7} {:>8}  {}"
    print(row.format("object", "score", "method", "passes", "seconds", "overlay"))
    cost = explanation.method, explanation.n_forward, f"{explanation.seconds:.1f}"
    for detection, overlay in zip(explanation.detections, overlays):
        print(row.format(detection.names[0], f"{detection.scores[0]:.2f}", *cost, f"{overlay}.png"))
