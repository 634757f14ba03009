#!/usr/bin/env bash
set -e
# Trains the shipped weights as they were made, from those of version 0.2: seven hours of one core of an AMD EPYC (or of
# two side by side), then seven minutes of an NVIDIA H200; on a CPU that last part takes some 45 core-hours. Run it again
# after a stop: the finished trainings are not repeated. `make weights` calls it; flags are added to each of the first.
# benchmarks/gpu.sh trains weights from nothing on one GPU in nine minutes instead.
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
# The JSON is written last, so a stopped training begins again.
further() { [ -e "$1.json" ] || PYTHONPATH=. "$PYTHON" benchmarks/gpu_weights.py "${@:2}" --output "$1" --json "$1.json"; }
further "$RUN/wide" autoencoder --ckpt "$RUN/final/model" --channels 24 --length 1349
further "$RUN/further" decoders --ckpt "$RUN/wide" --num_stories 80000 \
  --parts image_decoder=3169 prior=496 text_decoder=456
echo "== the weights are in $RUN/further"
