#!/bin/sh -e
# Trains the shipped weights as they were made, from those of version 0.2: seven hours of one core of an AMD EPYC, or of
# two side by side. Run it again after a stop: it goes on. `make weights` calls it; flags are added to each training.
# On one GPU benchmarks/gpu.sh trains them from nothing in nine minutes instead.
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
RUN=${RUN:-checkpoints/weights}
train() { "$PYTHON" story_generative_model.py train --mixed_precision auto "$@"; }

mkdir -p "$RUN/old"
git archive f0584c1 checkpoints/storyworld | tar -x -C "$RUN/old" --strip-components 2
train --config assets/decoder.json --init_from "$RUN/old" --phases autoencoder --output_dir "$RUN/decoder" "$@"
train --config assets/warm_start.json --init_from "$RUN/old" --autoencoder "$RUN/decoder" --output_dir "$RUN/warm" "$@"
train --config assets/illustration.json --init_from "$RUN/warm" --autoencoder "$RUN/warm" --phases writing,illustration \
  --output_dir "$RUN/final" "$@"
echo "== the weights are in $RUN/final/model"
