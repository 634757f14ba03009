"""One of two processes of trainings by FSDP2; `test_fsdp_training.py` starts them and looks at what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

import story_generative_model
from modules.phases import ConsolidationPhase, JointPhase
from modules.training import Trainer
from tests.runs import words

KILL_AT, STOP_AT = 8, 2  # Steps of the joint phase and of consolidation; a checkpoint is written after every third.


class Killed(BaseException):
    """Ends a run as SIGKILL does, as far as its folder can tell."""


def share_held(module: nn.Module) -> float:
    """The share of a module's parameters that this process holds."""
    parameters = list(module.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    return sum(parameter.to_local().numel() for parameter in parameters) / sum(parameter.numel() for parameter in parameters)


def main(folder: Path) -> None:
    trainers, shares, loss, run = [], {}, JointPhase.loss, Trainer.run

    def recorded(self: Trainer) -> Path:
        trainers.append(self)
        return run(self)

    def watched(self, module, step, part, num_parts):
        shares[self.name] = share_held(trainers[-1].trained), sum(weight.numel() for weight in self.model.parameters())
        if self.name == "joint" and step == KILL_AT and len(trainers) == 2:
            raise Killed
        if self.name == "consolidation" and (step, part, len(trainers)) == (STOP_AT, num_parts - 1, 3):  # The second process's.
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, module, step, part, num_parts)

    Trainer.run, JointPhase.loss, ConsolidationPhase.loss = recorded, watched, watched
    flags = ("--batch_size", 2, "--mixed_precision", "no")
    codes = [story_generative_model.main(words(folder / "straight", *flags, "--sample_every", 4, "--keep_last", 0))]
    try:
        story_generative_model.main(words(folder / "broken", *flags))
    except Killed:
        codes.append(-signal.SIGKILL)
    codes += [story_generative_model.main(words(folder / "broken", *flags)) for _ in range(2)]
    tensors = trainers[0].model.state_dict()
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    report = {"codes": codes, "processes": dist.get_world_size(), "shares": shares, "hashes": hashes}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
