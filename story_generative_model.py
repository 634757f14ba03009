"""Train the latent-storyboard story model and generate illustrated stories. `--help` lists the commands."""

from __future__ import annotations

import sys

from modules.commands.cli import COMMANDS, main

__all__ = ["COMMANDS", "main"]

if __name__ == "__main__":
    sys.exit(main())
