"""The command `dclose-nb`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dclose_nb as dc  # each name is imported when it is first used: `--help` answers at once

from . import checks, files
from .commands import run_command

if TYPE_CHECKING:
    from .explanation import Explanation
    from .folder import Choice, Condition
    from .images import Example
    from .studies.runner import DetectorSource

WHOLE, GOES_ON = "nothing is half-written", "the same command goes on from there"
LEFT = {  # what is said of an interrupted run, by command; of the others, `WHOLE`
    "explain": f"{WHOLE}, and with many photos {GOES_ON}",
    "evaluate": GOES_ON,
    "figures": GOES_ON,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `commands.run_command`."""
    args = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what a terminal cannot show
    return run_command("dclose-nb", lambda: args.run(args), left=args.left)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dclose-nb",
        description="Explain what an object detector saw.",
        epilog="Example: dclose-nb explain photo.jpg --method regression --out maps/",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {dc.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add(
        "--detector",
        help="yolox_nano to yolox_x, picodet_s; planted or planted_two_stage for scenes; a file or folder of "
        "a network; or package.module:function, called without arguments for a detector; default: "
        "yolox_nano, and to explain photos picodet_s where its weights cannot be had",
    )
    add("--classes", metavar="FILE", help="names of the detector's classes: one a line, or a list in JSON")
    add(
        "--decode",
        metavar="NAME",
        help="how the file's outputs are read; default: recognised by their shapes",
    )
    add("--device", metavar="D", help="cpu, cuda or cuda:1; default: the first GPU, else the CPU")
    add("--seed", type=int, default=0, metavar="S", help="seed of the masks; default: %(default)s")
    masks = "masked images for a map; default: each method's own, 4000 for dclose and 200 for regression"
    counted = argparse.ArgumentParser(add_help=False)  # for commands whose records need one number
    counted.add_argument("--n-masks", type=int, metavar="N", help=masks)
    scored = argparse.ArgumentParser(add_help=False)
    scored.add_argument(
        "--confidence",
        type=float,
        default=0.25,
        metavar="P",
        help="lowest score of what is explained, of [0, 1]; default: %(default)s",
    )
    parallel = argparse.ArgumentParser(add_help=False)
    parallel.add_argument(
        "--workers", type=int, default=1, metavar="K", help="processes side by side; default: %(default)s"
    )

    def command(name: str, run: Callable[..., int], example: str, **texts: Any) -> Callable[..., Any]:
        """A subcommand, to which options are added; what it leaves of an interrupted run is said."""
        left = LEFT.get(name, WHOLE)
        added = commands.add_parser(name, epilog=f"Example: dclose-nb {name} {example}", **texts)
        added.set_defaults(run=run, left=left)
        return added.add_argument

    add = command(
        "explain",
        _explain,
        "photos/ --method regression --out maps/",
        parents=[shared, scored, parallel],
        help="explain the detections in photos",
        description="Of one photo, write an overlay for each detection, a sheet and a page with all of them, "
        "the maps and a manifest. Of many, write a folder for each with a page, the maps and a manifest, a "
        "page that lists them, and a table of the detections; the same command goes on with a run that was "
        "stopped. The exit status is 1 if a photo fails or --fail-if holds.",
    )
    add(
        "--n-masks",
        type=_masks,
        metavar="N",
        help=f"{masks}; auto: as many as the map needs, at most these, or 2000 for regression",
    )
    add(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="an image file, a photo that ships (coffee, ...), or scene_7, ...; for many photos several of "
        "them, a folder, a quoted pattern ('photos/**/*.jpg'), or a .json file in COCO format",
    )
    add(
        "--method",
        default="dclose",
        help="dclose, the paper's (default); regression, the fast one: a twentieth of the masks; contrast, "
        "drise, mfpp, sodex, gradcam, odam, gcame, or greedy, which takes minutes for each box",
    )
    add(
        "--question",
        default="all",
        help="why this detection (all, the default), why here (place), or why this class (class)",
    )
    add("--labels", metavar="A,B", help="only detections of these classes, as in person,dog; default: all")
    add("--top", type=int, metavar="K", help="only the K best detections of a photo; default: all")
    add(
        "--fail-if",
        metavar="TEXT",
        help="exit with status 1 if this holds for a detection: a column of detections.csv, one of > >= < "
        "<=, and a number, as in 'outside > 0.5'",
    )
    add("--no-html", action="store_false", dest="html", help="leave out report.html of the one photo")
    add("--out", metavar="DIR", help="folder to write to; default, of one photo: explanations/PHOTO_METHOD")

    add = command(
        "demo",
        _demo,
        "--out demo/",
        help="explain a photo that ships, or a drawn scene where no weights can be had",
        description="As explain, with a photo that ships, or with a scene where weights are missing.",
    )
    add("--out", metavar="DIR", default="demo", help="folder to write to; default: %(default)s")

    add = command(
        "evaluate",
        _evaluate,
        "--coco DIR --limit 20 --workers 2 --out scores/",
        parents=[shared, scored, parallel, counted],
        help="score methods on a data set in COCO format",
        description="Score methods on a data set. The same command goes on with a run that was stopped, and "
        "tries again the images that could not be read.",
    )
    add("--coco", metavar="DIR", required=True, help="holds val2017/ and annotations/")
    add(
        "--methods",
        default="dclose,drise,gradcam",
        help="of dclose, contrast, regression, drise, mfpp, sodex, greedy, gradcam, odam, gcame, "
        "segments+density, segments+fusion; default: the paper's, %(default)s",
    )
    add("--steps", type=int, default=205, metavar="N", help="of deletion and insertion; default: %(default)s")
    add(
        "--within-classes",
        action="store_true",
        help="targets are suppressed within their class; default: over all classes, as in the scores",
    )
    add("--untimed", action="store_true", help="keep no seconds, since other work runs on the machine")
    add("--limit", type=int, metavar="N", help="only the first N images, in random order; default: all")
    add("--skip-missing", action="store_true", help="go on without images that are missing; default: stop")
    add("--out", metavar="DIR", required=True, help="folder for records and tables")

    add = command(
        "tables",
        _tables,
        "scores/",
        help="print and write the tables of an evaluation",
        description="Print and write the paper's Tables 1 to 3 from the records of an evaluation.",
    )
    add("folder", metavar="DIR", help="what evaluate wrote to")
    add(
        "--without",
        metavar="FILE",
        help="leave out images on which methods were designed, as in data/split.json; these tables "
        "are called tables_without.md and so on, and those of all images stay",
    )

    add = command(
        "figures",
        _figures,
        "--only 2 7 --n-masks 400 --out figures/",
        parents=[shared, counted],
        help="make the paper's figures",
        description="Make the paper's Figures 1 to 10 as PDF and PNG, and a page that shows them. "
        "A run that was stopped goes on with the same command.",
    )
    add("--coco", metavar="DIR", help="look for cases in a folder of COCO; default: do not")
    add("--photo", nargs="+", default=[], metavar="PHOTO", help="use these; default: photos that ship")
    add("--only", type=int, nargs="+", metavar="K", help="only these figures; default: all")
    add("--out", metavar="DIR", required=True, help="folder to write to")

    add = command(
        "fetch",
        _fetch,
        "yolox_nano",
        help="fetch a detector's weights, for use without a network",
        description="Fetch a detector's weights, for use without a network: YOLOX's to $YOLOX_HOME/weights, "
        "picodet_s by pip to the user's cache.",
    )
    add("detector", metavar="NAME", help="yolox_nano to yolox_x, or picodet_s")
    return parser


def _masks(text: str) -> int | str:
    """A number of masks, or "auto", from the command line."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it must be an integer or auto, got {text!r}") from None


def _fetch(args: argparse.Namespace) -> int:
    from .detectors import picodet, weights

    if checks.choice("detector", args.detector, [*weights.OFFICIAL, picodet.NAME]) == picodet.NAME:
        picodet.load()
        print(f"{args.detector}: {picodet.folder()}")
        return 0
    weights.load(args.detector)
    print(f"{args.detector}: {weights.path_of(args.detector)}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    from . import folder
    from .images import Example

    labels = None if args.labels is None else args.labels.split(",")
    choice = folder.Choice(args.confidence, labels, args.top)
    options = {"method": args.method, "n_masks": args.n_masks, "seed": args.seed, "question": args.question}
    method = folder.check_options(choice, **options)
    condition = None if args.fail_if is None else folder.Condition.parse(args.fail_if)
    gives_error = args.n_masks == "auto" or getattr(method, "own_error", False)
    if condition and condition.column == "error" and not gives_error:
        raise checks.InputError(f"{args.method} gives no error: take --method regression or --n-masks auto")
    source = _source(args, default=None)
    photos = folder.find_photos(args.photos)
    named = {os.path.abspath(os.path.expanduser(name)) for name in args.photos}
    if len(photos) > 1 or named != {os.path.abspath(photo) for photo in photos}:  # a folder counts as many
        return _explain_many(args, photos, source, choice, condition, options)
    (photo,) = photos
    image = dc.load_photo(photo)

    def situation() -> Example:
        detector = source.load()
        return Example(detector, image, choice.detect(detector, image))

    out = _own_folder(photo, args.method) if args.out is None else checks.path(args.out)
    limits = f"score {args.confidence:g} or more{f', labels {args.labels}' if args.labels else ''}"
    explanation = _write(out, situation, photo, limits, html=args.html, **options)
    return _failing(folder.detection_rows(explanation, photo, out), condition) if condition else 0


def _explain_many(
    args: argparse.Namespace,
    photos: Sequence[str],
    source: DetectorSource,
    choice: Choice,
    condition: Condition | None,
    options: dict[str, Any],
) -> int:
    from . import folder

    if args.out is None or not args.html:
        raise checks.InputError("many photos need --out DIR, and each has its report.html")
    lines = folder.explain_photos(photos, args.out, source, choice, workers=args.workers, **options)
    print(folder.summary(lines))
    failed = [line for line in lines if "error" in line]
    for line in failed:
        print(f"    {line['photo']}: {line['error']}")
    rows = [row for line in lines for row in line.get("detections", ())]
    status = _failing(rows, condition) if condition else 0
    print(
        f"\n{checks.path(args.out)}/  {folder.INDEX}, {folder.CSV}, {folder.JSONL}, a folder for each photo"
    )
    return 1 if failed else status


def _failing(rows: Sequence[dict[str, Any]], condition: Condition) -> int:
    """Print the detections for which a condition holds; returns 1 if there are any, else 0."""
    found = [row for row in rows if condition.holds(row)]
    if not found:
        return 0
    print(f"{len(found)} of {len(rows)} detections have {condition}:")
    for row in found:
        value = row[condition.column]
        print(f"    {row['photo']}: {row['label']} {row['score']:.2f}, {condition.column} {value}")
    return 1


def _own_folder(photo: str, method: str) -> Path:
    """The default folder of a photo, unless it holds another's."""
    from .folder import refuse_another

    folder = checks.path(Path("explanations") / f"{Path(photo).stem}_{method}")
    refuse_another(folder, photo)
    return folder


def _demo(args: argparse.Namespace) -> int:
    photo, limits = "the example 'overlap'", "score 0.25 or more"
    _write(checks.path(args.out), lambda: dc.load_example("overlap"), photo, limits, n_masks=1000)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from .studies import coco, evaluation

    data = coco.read_coco(args.coco, missing="skip" if args.skip_missing else "stop")
    evaluation.evaluate(
        _source(args),
        data,
        args.out,
        methods=args.methods.split(","),
        n_masks=args.n_masks,
        steps=args.steps,
        confidence=args.confidence,
        class_agnostic=not args.within_classes,
        timed=not args.untimed,
        seed=args.seed,
        limit=args.limit,
        workers=args.workers,
    )
    return _tables(argparse.Namespace(folder=args.out, without=None))


def _tables(args: argparse.Namespace) -> int:
    from .studies import tables

    folder = checks.path(args.folder)
    print(tables.write(folder, without=args.without))
    end = "" if args.without is None else "_without"
    print(f"{folder}/  tables{end}.md, tables{end}.tex, table_1{end}.csv to table_3{end}.csv")
    return 0


def _figures(args: argparse.Namespace) -> int:
    import matplotlib

    matplotlib.use("agg")
    from .paper import gallery

    numbers = list(gallery.FIGURES) if args.only is None else args.only
    out = checks.path(args.out)
    records = gallery.make(
        out,
        detector=_source(args),
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
    print(f"\n{out}/  {gallery.GALLERY}, {gallery.RECORDS}, maps/")
    return 0


def _source(args: argparse.Namespace, *, default: str | None = "yolox_nano") -> DetectorSource:
    """The detector that is asked for, which each process loads for itself."""
    from .studies.runner import DetectorSource

    names = None if args.classes is None else _class_names(args.classes)
    return DetectorSource(args.detector or default, names, args.device, args.decode)


def _class_names(file: str) -> tuple[str, ...]:
    """The class names in a file: one a line, or a list in JSON."""
    try:
        text = checks.path(file).read_text(encoding="utf-8-sig").strip()
        lines = files.from_json(text) if text.startswith("[") else [line.strip() for line in text.split("\n")]
    except OSError as error:
        raise checks.InputError(f"{file!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise checks.InputError(f"{file!r} holds no class names: {error}") from error
    if not text:
        raise checks.InputError(f"{file!r} holds no class names: it is empty")
    return checks.class_names(lines)


def _write(
    out: Path, situation: Callable[[], Example], photo: str, limits: str, *, html: bool = True, **options: Any
) -> Explanation:
    """Explain what `situation` gives, into a folder that is known to be writable before.

    `limits` says in words what was looked for, in case nothing was found.
    """
    import matplotlib

    matplotlib.use("agg")
    from . import reports

    with reports.staged(out, html=html) as stage:
        detector, image, targets = situation()
        explanation = dc.explain(detector, image, targets, **options)
        explanation = replace(explanation, n_forward=explanation.n_forward + 1)  # the detection before
        reports.write(stage, explanation, photo=photo, html=html)
    row = "{:<16} {:>5}  {:<8} {:>7} {:>8}  {}"
    print(row.format("object", "score", "method", "passes", "seconds", "overlay"))
    cost = explanation.method, explanation.n_forward, f"{explanation.seconds:.1f}"
    for k, detection in enumerate(explanation.detections):
        overlay = f"{reports.overlay_name(explanation, k)}.png"
        print(row.format(detection.names[0], f"{detection.scores[0]:.2f}", *cost, overlay))
    if not len(explanation):
        print(f"no object was found ({limits}), so there is nothing to explain")
    print(f"\n{out}/  sheet.png, overlays, {'report.html, ' * html}maps.npz, manifest.json")
    return explanation
