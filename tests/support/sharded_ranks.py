"""One of two processes that train with FSDP2; `test_fsdp_training.py` starts them and reads their files."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist
from torch.distributed.tensor import DTensor

import story_generative_model
from modules.training.phases import JointPhase
from modules.training.trainer import Trainer
from tests.support.runs import words

FLAGS = ("--phases", "autoencoder,opening,joint,consolidation", "--max_steps", 4, "--save_every", 2, "--keep_last", 0)
MIXED = (*FLAGS, "--phases", "autoencoder,opening", "--mixed_precision", "bf16")
STOPPED, KILLED = (
    0,
    3,
)  # Steps of the joint phase: the first run of the broken training ends in one, the second in the other.


class Killed(BaseException):
    """Ends a run as SIGKILL does, as far as its folder can tell."""


def shares_held(trainer: Trainer) -> dict[str, float]:
    """Return the shares of weights, averages and the model itself that this process has in the middle of an
    update.
    """
    weights = trainer.weights
    total = sum(weight.numel() for weight in weights.module.parameters())
    trained = sum(weight.numel() for weight in weights.parameters)
    kinds = {"weights": (weights.module.parameters(), total), "averages": (weights.average.values, trained)}
    held = {name: sum(value.to_local().numel() for value in values) / count for name, (values, count) in kinds.items()}
    return held | {"model": sum(weight.numel() for weight in trainer.model.parameters()) / total}


def main(folder: Path) -> None:
    trainers, shares, loss, run = [], {}, JointPhase.loss, Trainer.run

    def recorded(self: Trainer) -> Path:
        trainers.append(self)
        return run(self)

    def watched(self, module, step, part, num_parts):
        if not shares:
            shares.update(shares_held(trainers[-1]))
            assert all(isinstance(weight, DTensor) for weight in trainers[-1].weights.parameters)
        if (step, part, len(trainers)) == (STOPPED, num_parts - 1, 2):  # The last part is the second process's.
            os.kill(os.getpid(), signal.SIGTERM)
        if step == KILLED and len(trainers) == 3:
            raise Killed
        return loss(self, module, step, part, num_parts)

    def command(name: str, *flags: object) -> int:
        try:
            return story_generative_model.main(words(folder / name, "--batch_size", 2, *flags))
        except Killed:
            return -signal.SIGKILL

    Trainer.run, JointPhase.loss = recorded, watched
    plain = (*FLAGS, "--mixed_precision", "no")  # The configuration says bf16.
    codes = [
        command("straight", *plain, "--sample_every", 4),
        *(command("broken", *plain) for _ in range(3)),
        command("mixed", *MIXED),
    ]
    tensors = trainers[0].model.state_dict()
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    report = {"codes": codes, "processes": dist.get_world_size(), "shares": shares, "hashes": hashes}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
