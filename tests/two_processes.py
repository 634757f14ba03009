"""One of the processes of a training that `test_training.py` starts: it is stopped once, goes on, and reports what it holds at the end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import story_generative_model
from modules.phases import JointPhase
from modules.training import Trainer

STOP_AT = 8  # A step of the joint phase.
trainers: list[Trainer] = []
run, loss = Trainer.run, JointPhase.loss


def recorded(self: Trainer) -> Path:
    trainers.append(self)
    return run(self)


def signalled(self: JointPhase, module, step, part, num_parts):
    if step == STOP_AT and len(trainers) == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return loss(self, module, step, part, num_parts)


def main(report: Path, argv: list[str]) -> None:
    Trainer.run, JointPhase.loss = recorded, signalled
    codes = [story_generative_model.main(argv), story_generative_model.main(argv)]
    tensors = trainers[-1].model.state_dict()
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    report.write_text(json.dumps({"codes": codes, "processes": trainers[-1].accelerator.num_processes, "hashes": hashes}))
    trainers[-1].accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
