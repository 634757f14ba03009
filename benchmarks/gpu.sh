#!/usr/bin/env bash
# Train the weights of the story world on one GPU in minutes, and measure what the GPU does.
#
#     benchmarks/gpu.sh                     # 9.5 minutes in all: results in results/gpu
#     START=results/gpu/weights OUT=results/gpu2 benchmarks/gpu.sh    # goes on from the weights of the first call
#
# It checks itself on a tiny model (20 s), trains all phases by `train --max_minutes`, grades the weights, times presets
# at full size with random weights, and writes to $OUT: weights/ (the model; files above 15 MB in parts, which
# `cat part.* > file` joins), report.json (timings and grades) and log.txt. Needs torch 2.11 or newer and the packages
# of requirements.txt (accelerate, diffusers, einops, peft, pillow, rich, safetensors, tensorboard, tokenizers,
# transformers, vector-quantize-pytorch); no network. MINUTES of training, BATCH stories an update, and the PRESET may be
# changed; without a GPU it runs on the CPU, which is how the tests rehearse it.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1
python=${PYTHON:-python}
out=${OUT:-results/gpu} preset=${PRESET:-storyworld} minutes=${MINUTES:-6.5} batch=${BATCH:-96} start=${START:-}
full_size=${FULL_SIZE-storyworld gpt2-sd15 storydiffusion}
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1
say() { echo "== $SECONDS s: $*"; }

say "checking the machine and the code"
"$python" benchmarks/gpu_report.py machine --output "$out/machine.json"
"$python" story_generative_model.py train --preset tiny --num_stories 16 --max_steps 2 --batch_size 4 \
    --mixed_precision auto --output_dir "$out/check"
rm -rf "$out/check"

config=$out/config.json run=$out/run
"$python" benchmarks/gpu_report.py config --preset "$preset" --batch_size "$batch" --output "$config"
more=()
if [ -n "$start" ]; then
    for first in "$start"/*.part.00; do  # Parts of an earlier call.
        [ -e "$first" ] && cat "${first%.00}".* > "${first%.part.00}"
    done
    more=(--init_from "$start" --phases illustration,planning)
fi
say "training $preset for $minutes minutes"
"$python" story_generative_model.py train --config "$config" --max_minutes "$minutes" --mixed_precision auto \
    --save_every 1000000 --sample_every 1000000 --output_dir "$run" "${more[@]}"

say "writing the weights"
mkdir -p "$out/weights"
cp "$run"/model/* "$out/weights/"
find "$out/weights" -size +15000000c | while read -r file; do
    split -b 15000000 -d "$file" "$file.part." && rm "$file"
done

say "grading them"
"$python" story_generative_model.py evaluate --ckpt "$run" --num_stories "${STORIES:-60}" --num_drawn "${DRAWN:-20}" \
    --json "$out/evaluate.json" > "$out/evaluate.txt" || say "not graded"
for name in $full_size; do
    say "timing $name at full size"
    timeout 60 "$python" benchmarks/full_size.py --preset "$name" --num_steps 5 --json "$out/$name.json" || say "not timed"
done
"$python" benchmarks/gpu_report.py report --run "$run" --output "$out/report.json" "$out"/*.json
say "done: $out/report.json"
