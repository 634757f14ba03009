"""Started by generate.py as a new process: load a checkpoint, print "ready", generate a story, print peak MiB."""

from __future__ import annotations

import sys

from common import peak_rss_mib

from modules.generation.pipeline import StoryPipeline

if __name__ == "__main__":
    checkpoint, prompt, num_steps = sys.argv[1:]
    pipeline = StoryPipeline.from_pretrained(checkpoint)
    print("ready", flush=True)
    pipeline(prompt, num_steps=int(num_steps))
    print(peak_rss_mib(), flush=True)
