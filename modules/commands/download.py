"""The commands of download_data.py: which source is read how, into which folder."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.common.arguments import positive_int
from modules.common.errors import UserError

if TYPE_CHECKING:
    from modules.downloads.record import FoundStory, Row, Source


SPLITS = ("train", "val")
RUN_FLAGS = ("command", "act", "source_class", "output", "staging", "overwrite", "resume", "probe")


def collect_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every source but the story world shares."""
    parser.add_argument(
        "--splits", type=split_names, default=SPLITS, metavar="NAMES", help="train, val or both (train,val)"
    )
    parser.add_argument(
        "--max_stories", type=positive_int, metavar="N", help="at most N of each split that the source has"
    )
    parser.add_argument(
        "--image_size", type=image_side, default=512, metavar="PIXELS", help="longest side of a picture (512)"
    )
    parser.add_argument(
        "--licenses", type=license_names, default=(), metavar="NAMES", help="keep these alone, such as cc-by,cc-by-sa"
    )
    parser.add_argument("--probe", action="store_true", help="print what the first record holds, and write nothing")
    parser.add_argument(
        "--resume", action="store_true", help="insist that a stopped run is gone on with (one that is there always is)"
    )


def split_names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in SPLITS if name in text.split(","))
    if not names or set(text.split(",")) - set(SPLITS):
        raise argparse.ArgumentTypeError(f"must be train, val or train,val, got {text!r}")
    return names


def image_side(text: str) -> int:
    value = positive_int(text)
    if not 16 <= value <= 4096:
        raise argparse.ArgumentTypeError(f"must be from 16 to 4,096, got {value:,}")
    return value


def license_names(text: str) -> tuple[str, ...]:
    from modules.downloads.record import license_key

    return tuple(sorted({license_key(name) for name in text.split(",") if name.strip()}))


def act_collect(args: argparse.Namespace) -> int:
    """Collect a source into `--output`, or only look at it. Raises UserError."""
    args.staging = args.output / f".download-{args.command}"
    source = args.source_class(args)
    if args.probe:
        return probe(source)
    from modules.downloads.collect import Limits, Staging, collect
    from modules.downloads.splits import place_splits

    staging = Staging(args.staging, settings_of(args))
    if args.resume and not staging.resumed:
        raise UserError(f"{args.output} holds no run of {args.command} that was stopped: leave out --resume")
    if not staging.progress.moving:
        check_output(args.output, args.splits, args.overwrite)
    if source.terms:
        print(f"{source.name}: {source.terms}", file=sys.stderr)
    if staging.progress.total:
        print(f"going on after {staging.progress.total:,} stories in {args.staging}", file=sys.stderr)
    parts = tuple(part for part in source.parts if part == "all" or part in args.splits)
    if not staging.progress.moving:
        collect(source, staging, parts, Limits(args.max_stories, args.image_size, args.licenses))
    progress = staging.progress
    counts = place_splits(staging, source, args.output, args.splits)
    report(args, progress, counts)
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """All that decides what a run collects, as JSON."""
    values = {key: value for key, value in vars(args).items() if key not in RUN_FLAGS}
    return {key: str(value.resolve()) if isinstance(value, Path) else value for key, value in values.items()}


def report(args: argparse.Namespace, progress: Any, counts: dict[str, int]) -> None:
    from modules.downloads.collect import summary

    for split in args.splits:
        if counts[split]:
            print(f"{args.output / split}: {counts[split]:,} stories")
        else:
            print(
                f"no story is left for {split}: too few, or all of them share pictures with the others", file=sys.stderr
            )
    if counts["moved"]:
        print(f"{counts['moved']:,} stories of val went to train, with which they share pictures", file=sys.stderr)
    if left_out := summary(progress):
        first = f"; the first: {progress.problems[0]}" if progress.problems else ""
        print(f"left out {left_out}{first}; source.json names them", file=sys.stderr)


def check_output(output: Path, splits: Sequence[str], overwrite: bool) -> None:
    """Refuse to replace what is there before any work is done.

    Raises:
        UserError: a split is there and not empty, or a file is in the way.
    """
    for folder in (output, *(output / split for split in splits)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; choose another --output")
    for split in splits:
        if not overwrite and (output / split).is_dir() and any((output / split).iterdir()):
            raise UserError(f"{output / split} is not empty; add --overwrite to replace it, or choose another --output")


def probe(source: Source) -> int:
    """Print the names and kinds of what the first record holds, and the story that it would become.

    Raises UserError.
    """
    from modules.data.records import RecordError

    part = source.parts[0]
    row = next(iter(source.rows(part, None)), None)
    if row is None:
        raise UserError(f"{source.name} has no record in {part}")
    try:
        if isinstance(row.value, RecordError):
            raise row.value
        show_record(source, row)
    except (RecordError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"the first record, {row.name}, cannot be used: {error}") from None
    return 0


def show_record(source: Source, row: Row) -> None:
    value = row.value[0] if isinstance(row.value, list) and row.value else row.value
    if isinstance(value, bytes):
        value = json.loads(value)
    print(f"{source.name}: licence {source.license or 'not stated'}" + (f"; {source.terms}" if source.terms else ""))
    print(f"parts: {', '.join(source.parts)}\nfirst record: {row.name}")
    for key, item in value.items() if isinstance(value, dict) else ():
        print(f"  {key}: {kind_of(item)}")
    print("becomes:")
    for story in source.stories(row):
        print(json.dumps(shown(story), ensure_ascii=False, indent=2))


def shown(story: FoundStory) -> dict[str, Any]:
    """A story for people to read: pictures as their kind."""
    steps = [
        {"text": page.text, "image": kind_of(page.image) if isinstance(page.image, bytes) else str(page.image)}
        for page in story.pages
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
    """What a value is, with its size and its beginning."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes, sha256 {hashlib.sha256(value).hexdigest()[:8]}"
    if isinstance(value, (list, dict)):
        inner = next(iter(value.values() if isinstance(value, dict) else value), None)
        keys = f" with {', '.join(map(str, value))}" if isinstance(value, dict) else ""
        return f"{type(value).__name__} of {len(value)}{keys}" + (f", the first {kind_of(inner)}" if value else "")
    text = str(value)
    return f"{type(value).__name__} {text[:60]!r}" + (f"... ({len(text):,} characters)" if len(text) > 60 else "")


def act_storyworld(args: argparse.Namespace) -> int:
    """Write the built-in world's two splits, which share no story. Raises UserError."""
    from modules.common.files import replace_folder
    from modules.common.progress import track
    from modules.data.writing import write_stories
    from modules.storyworld import StoryWorld

    counts = {"train": args.stories, "val": args.val_stories or max(1, args.stories // 10)}
    check_output(args.output, list(counts), args.overwrite)
    staging = args.output / ".partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)  # What a killed run left.
        for split, count in counts.items():
            world = StoryWorld(count, args.seed, split=split, image_size=args.image_size)
            write_stories(staging / split, (world[index] for index in track(f"{split} stories", range(count))))
        for split in counts:
            replace_folder(args.output / split, staging / split)
    except OSError as error:
        raise UserError(f"{args.output} cannot be written: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for split, count in counts.items():
        print(f"{args.output / split}: {count:,} stories")
    return 0
