"""The commands, one module each, with `add_flags(parser)` and `run(args) -> int`.

To add one: a module here, and a line in `cli.COMMANDS` (or `data_cli.COMMANDS`). Import heavy libraries inside `run`,
so that `--help` and errors in the flags are quick.
"""
