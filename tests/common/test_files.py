"""Files are written whole; what a killed writer left is removed by the next one."""

from __future__ import annotations

import os
import subprocess
import sys

from modules.common.files import write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from modules.common.files import write_whole
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path(sys.argv[1]), b"half")
"""


def test_what_a_killed_writer_of_the_same_file_left_is_removed(tmp_path):
    report = tmp_path / "report.json"
    assert subprocess.run([sys.executable, "-c", KILLED, report]).returncode < 0
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half" and left.name.startswith(".report.json.tmp-")
    others = {
        f".other.json.tmp-{2**30}",
        f".report.json.tmp-{os.getppid()}",
        ".report.json.tmp-",
        ".report.json.tmp-1x",
    }
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".report.json.tmp-{2**30}").symlink_to(tmp_path / "elsewhere")
    write_whole(report, b"whole")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"report.json", *others, f".report.json.tmp-{2**30}"} and report.read_bytes() == b"whole"
