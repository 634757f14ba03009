"""The parts of `gpu.sh` that are written in Python: the machine, the config of its run, and the report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common import environment

from modules.commands.shared import write_json
from modules.common.arguments import Parser, a_path, positive_int
from modules.common.errors import UserError
from modules.config import StoryConfig
from modules.presets import PRESETS
from modules.saving.checkpoint import latest_checkpoint, load_checkpoint

REFERENCE_BATCH = 12  # Stories an update for which the presets' learning rates were chosen.


def scaled_config(config: StoryConfig, batch_size: int) -> StoryConfig:
    """Return a config for larger batches: Adam's learning rates grow with the square root of the batch
    (arXiv 2205.10287), to three times at most.
    """
    training = config.training
    factor = min(3.0, (batch_size / REFERENCE_BATCH) ** 0.5)
    rates = ("learning_rate", "autoencoder_learning_rate", "consolidation_learning_rate")
    scaled = {name: getattr(training, name) * factor for name in rates}
    stories = max(training.num_stories, 20_000) if batch_size > REFERENCE_BATCH else training.num_stories
    values = {"batch_size": batch_size, "num_stories": stories, **scaled}
    return dataclasses.replace(config, training=dataclasses.replace(training, **values))


def describe_machine() -> dict[str, Any]:
    """Return the environment, and on a GPU its name, memory and rate of bf16 matrix products."""
    import torch
    from full_size import matmul_rate

    described = environment()
    if torch.cuda.is_available():
        device = torch.device("cuda")
        properties = torch.cuda.get_device_properties(device)
        described |= {"gpu": properties.name, "memory_gib": properties.total_memory / 2**30}
        described["matmul_tflops"] = matmul_rate(device) / 1e12
    return described


def summarise_run(run: Path) -> dict[str, Any]:
    """Return updates, seconds an update and the last losses of each phase of a run. Raises UserError where none is."""
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} contains no checkpoint: was it trained?")
    pace = load_checkpoint(checkpoint)[1].get("pace") or {}
    lines = [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]
    phases = {
        name: last_losses([line for line in lines if line["phase"] == name])
        for name in dict.fromkeys(line["phase"] for line in lines)
    }
    return {"phases": phases, "pace": pace, "updates": len(lines)}


def last_losses(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of updates of a phase and the means of its losses over the last tenth of them."""
    last = lines[-max(1, len(lines) // 10) :]
    names = [name for name in last[-1] if name not in ("global_step", "phase", "step")]
    return {"updates": len(lines)} | {
        name: sum(line[name] or 0.0 for line in last) / len(last) for name in names if last[-1][name] is not None
    }


def write_report(run: Path, files: Iterable[Path], output: Path) -> Mapping[str, Any]:
    """Write the run's summary and the JSON files beside it as one file."""
    read = {path.stem: json.loads(path.read_text()) for path in files if path != output}
    report = {"run": summarise_run(run), **read}
    write_json(output, report)
    return report


def make_flags() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("machine", "config", "report"):
        command = commands.add_parser(name)
        command.add_argument("--output", type=a_path, required=True)
        if name == "config":
            command.add_argument("--preset", choices=sorted(PRESETS), default="storyworld")
            command.add_argument("--batch_size", type=positive_int, required=True)
        if name == "report":
            command.add_argument("--run", type=a_path, required=True)
            command.add_argument("files", type=a_path, nargs="*")
    return parser


def main() -> int:
    args = make_flags().parse_args()
    if args.command == "machine":
        write_json(args.output, described := describe_machine())
        print(json.dumps(described))
    elif args.command == "config":
        args.output.write_text(scaled_config(PRESETS[args.preset], args.batch_size).to_json())
    else:
        write_report(args.run, args.files, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
