"""What an installation contains: packages, templates, and the weights and configurations that ship with the program.

Everything else is in pyproject.toml. `modules/common/shipped.py` finds the shipped folders.
"""

from pathlib import Path

from setuptools import find_packages, setup

SHIPPED = ("checkpoints/storyworld", "checkpoints/judge", "assets/architectures")
FOLDERS = {f"modules._shipped.{folder.replace('/', '.')}": folder for folder in SHIPPED}
BOOKS, DEV = (
    [line for line in Path(f"requirements-{name}.txt").read_text().splitlines() if line[:1].isalpha()]
    for name in ("books", "dev")
)

setup(
    packages=[*find_packages(include=["modules", "modules.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={"": ["*.html", "*.css", "*.js", "*.md", "*.ttf"]} | {name: ["**/*"] for name in FOLDERS},
    extras_require={"books": BOOKS, "dev": [*BOOKS, *DEV]},
)
