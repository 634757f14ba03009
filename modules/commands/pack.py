"""`pack`: pack a data folder into Parquet shards with the pictures inside."""

from __future__ import annotations

import argparse

from modules.commands.data_shared import folder_argument
from modules.common.arguments import a_path, integer

MIB = 1 << 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    folder_argument(parser)
    parser.add_argument(
        "--output",
        type=a_path,
        metavar="FOLDER",
        help="folder for the shards (default: FOLDER-shards beside the data folder)",
    )
    parser.add_argument(
        "--shard_size",
        type=integer(1),
        default=256,
        metavar="MIB",
        help="approximate size of a shard in MiB (default 256)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it exists")


def run(args: argparse.Namespace) -> int:
    from modules.data.pack import pack, staging_folder

    folder = args.folder.resolve()
    output = args.output or folder.with_name(f"{folder.name}-shards")
    args.staging = staging_folder(output.resolve())
    for split, names in pack(args.folder, output, args.shard_size * MIB, args.overwrite).items():
        print(f"{output}: {split}, {sum(shard.stories for shard in names):,} stories in {len(names):,} shards")
    return 0
