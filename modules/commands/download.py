"""Every source of download_data.py is a command: download its stories, convert them, split them into train and val."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.commands.data_shared import check_output, output_flags
from modules.common.arguments import integer
from modules.common.errors import UserError, one_line
from modules.common.folder_lock import FolderLock
from modules.common.ownership import refuse_overlap
from modules.data.records import SPLITS

if TYPE_CHECKING:
    from modules.downloads.collect import Progress
    from modules.downloads.record import Row, Source, SourceStory


# Arguments that do not decide what a run collects.
RUN_ARGUMENTS = ("command", "act", "source_class", "output", "staging", "overwrite", "resume", "probe")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every source has but the story world."""
    output_flags(parser)
    parser.add_argument(
        "--splits",
        type=split_names,
        default=SPLITS,
        metavar="NAMES",
        help="train, val or train,val (default train,val)",
    )
    parser.add_argument(
        "--max_stories", type=integer(1), metavar="N", help="largest number of stories per split (default: all)"
    )
    parser.add_argument(
        "--image_size",
        type=integer(16, 4096),
        default=512,
        metavar="PIXELS",
        help="longest side of a picture, in pixels; larger pictures are scaled down (default 512)",
    )
    parser.add_argument(
        "--licenses",
        type=license_names,
        default=(),
        metavar="NAMES",
        help="keep only stories with these licences, such as cc-by,cc-by-sa (default: any)",
    )
    parser.add_argument("--probe", action="store_true", help="only print the first record and the story made from it")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="fail if there is no stopped run to resume (a stopped run is resumed with or without this flag)",
    )


def split_names(text: str) -> tuple[str, ...]:
    """Parse names of splits with commas between them."""
    names = tuple(name for name in SPLITS if name in text.split(","))
    if not names or set(text.split(",")) - set(SPLITS):
        raise argparse.ArgumentTypeError(f"must be train, val or train,val, got {text!r}")
    return names


def license_names(text: str) -> tuple[str, ...]:
    """Parse names of licences with commas between them, without version and punctuation."""
    from modules.downloads.record import license_key

    return tuple(sorted({license_key(name) for name in text.split(",") if name.strip()}))


def run(args: argparse.Namespace) -> int:
    """Collect a source into `--output`, or only probe it. Raises UserError."""
    args.staging = args.output / f".download-{args.command}"
    source = args.source_class(args)
    if args.probe:
        return probe(source)
    refuse_overlap(args.output, source.inputs)
    for note in source.notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    with FolderLock(args.output):
        return download(source, args)


def download(source: Source, args: argparse.Namespace) -> int:
    """Collect a source into `--output`, resuming a stopped run. Raises UserError."""
    from modules.downloads.collect import Limits, Staging, collect
    from modules.downloads.splits import place_splits

    staging = Staging(args.staging, settings_of(args))
    if args.resume and not staging.resumed:
        raise UserError(f"{args.output} contains no stopped run of {args.command}: leave out --resume")
    if not staging.progress.moving:
        check_output(args.output, args.splits, args.overwrite)
    if source.terms:
        print(f"{source.name}: {source.terms}", file=sys.stderr)
    if staging.progress.total:
        print(f"resuming after {staging.progress.total:,} stories in {args.staging}", file=sys.stderr)
    parts = tuple(part for part in source.parts if part == "all" or part in args.splits)
    if not staging.progress.moving:
        collect(source, staging, parts, Limits(args.max_stories, args.image_size, args.licenses))
    progress = staging.progress
    counts = place_splits(staging, source, args.output, args.splits)
    report(args, progress, counts)
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that decide what a run collects, as JSON values."""
    values = {key: value for key, value in vars(args).items() if key not in RUN_ARGUMENTS}
    values |= {key: list(map(str, value)) for key, value in values.items() if isinstance(value, list)}
    return {key: str(value.resolve()) if isinstance(value, Path) else value for key, value in values.items()}


def report(args: argparse.Namespace, progress: Progress, counts: dict[str, int]) -> None:
    """Print how many stories each split has, and what was left out."""
    from modules.downloads.collect import summary
    from modules.downloads.splits import HALVES

    for split in args.splits:
        if counts[split]:
            print(f"{args.output / split}: {counts[split]:,} stories")
        else:
            reason = "too few stories, or all of them share pictures with the other split"
            print(f"no story is left for {split}: {reason}", file=sys.stderr)
    if counts["moved"]:
        print(f"{counts['moved']:,} stories moved from val to train, with which they share pictures", file=sys.stderr)
    if halves := [f"{counts[name]:,} {name}" for name in HALVES if counts.get(name)]:
        print(f"of {counts['pages']:,} pages, {' and '.join(halves)}", file=sys.stderr)
    if left_out := summary(progress):
        first = f"; the first: {progress.problems[0]}" if progress.problems else ""
        print(f"left out {left_out}{first}; source.json lists them", file=sys.stderr)


def probe(source: Source) -> int:
    """Print the fields of the first record, and the story made from it.

    Raises UserError.
    """
    from modules.data.records import RecordError

    part = source.parts[0]
    row = next(iter(source.rows(part, None)), None)
    if row is None:
        raise UserError(f"{source.name} has no records in {part}")
    try:
        if isinstance(row.value, RecordError):
            raise row.value
        show_record(source, row)
    except (RecordError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"the first record, {row.name}, cannot be used: {error}") from None
    return 0


def show_record(source: Source, row: Row) -> None:
    """Print the licence, the fields of a record and the stories made from it."""
    value = row.value[0] if isinstance(row.value, list) and row.value else row.value
    if isinstance(value, bytes):
        value = json.loads(value)
    print(f"{source.name}: licence {source.license or 'not stated'}" + (f"; {source.terms}" if source.terms else ""))
    print(f"parts: {', '.join(source.parts)}\nfirst record: {one_line(row.name)}")
    for key, item in value.items() if isinstance(value, dict) else ():
        print(f"  {one_line(key)}: {kind_of(item)}")
    print("becomes:")
    for story in source.stories(row):
        print(json.dumps(shown(story), ensure_ascii=False, indent=2))


def shown(story: SourceStory) -> dict[str, Any]:
    """Return a story as JSON values, its pictures described."""
    steps = [
        {"text": page.text, "image": kind_of(page.image) if isinstance(page.image, bytes) else str(page.image)}
        for page in story.steps
    ]
    return {
        "id": story.id,
        "prompt": story.prompt,
        "license": story.license,
        "credit": story.credit,
        **story.extra,
        "steps": steps,
    }


def kind_of(value: Any) -> str:
    """Describe a value: its type, its size and its beginning."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes, sha256 {hashlib.sha256(value).hexdigest()[:8]}"
    if isinstance(value, (list, dict)):
        inner = next(iter(value.values() if isinstance(value, dict) else value), None)
        keys = f" with {', '.join(map(str, value))}" if isinstance(value, dict) else ""
        return f"{type(value).__name__} of {len(value)}{keys}" + (f", the first {kind_of(inner)}" if value else "")
    text = str(value)
    return f"{type(value).__name__} {text[:60]!r}" + (f"... ({len(text):,} characters)" if len(text) > 60 else "")
