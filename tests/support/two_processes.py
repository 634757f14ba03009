"""One of the processes of a training that `test_training.py` starts: it is stopped once, goes on, and reports what it
holds at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch.distributed

import story_generative_model
from modules.training.phases import JointPhase
from modules.training.trainer import Trainer

STOP_AT = 6  # A step of the joint phase.
trainers: list[Trainer] = []
run, loss = Trainer.run, JointPhase.loss


def recorded(self: Trainer) -> Path:
    trainers.append(self)
    return run(self)


def signalled(self: JointPhase, module, step, part, num_parts):
    if (step, part) == (STOP_AT, num_parts - 1) and len(trainers) == 1:  # The last part is the second process's.
        os.kill(os.getpid(), signal.SIGTERM)
    return loss(self, module, step, part, num_parts)


def main(report: Path, argv: list[str]) -> None:
    Trainer.run, JointPhase.loss = recorded, signalled
    with redirect_stdout(io.StringIO()) as printed:
        codes = [story_generative_model.main(argv), story_generative_model.main(argv)]
    tensors = trainers[-1].model.state_dict()
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    processes = torch.distributed.get_world_size()
    report.write_text(
        json.dumps({"codes": codes, "processes": processes, "hashes": hashes, "printed": printed.getvalue()})
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
