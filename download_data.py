"""Make `data/train` and `data/val`, folders of `stories.jsonl` and pictures, from a source; check, show and pack them.

python download_data.py                                    M3IT's image paragraphs, from the Hub
python download_data.py storyworld --stories 2000 --seed 0
python download_data.py SOURCE --help                      contents, licence and flags of a source
python download_data.py validate data
python download_data.py pack data
"""

from __future__ import annotations

import sys

from modules.commands.data_cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
