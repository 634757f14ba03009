"""What an installation contains: packages, templates, and the weights and configurations that ship with the program.

Everything else is in pyproject.toml. `modules/common/shipped.py` finds the shipped folders.
"""

from pathlib import Path

from setuptools import find_packages, setup

SHIPPED = ("checkpoints/storyworld", "checkpoints/judge", "assets/architectures")
FOLDERS = {f"modules._shipped.{folder.replace('/', '.')}": folder for folder in SHIPPED}
EXTRAS = {
    extra: [line for line in Path(f"requirements-{extra}.txt").read_text().splitlines() if line[:1].isalpha()]
    for extra in ("books", "studio", "dev")
}

setup(
    packages=[*find_packages(include=["modules", "modules.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={"": ["*.html", "*.css", "*.js", "*.md", "*.ttf"], "modules.studio": ["static/**/*"]}
    | {name: ["**/*"] for name in FOLDERS},
    extras_require=EXTRAS | {"dev": [*EXTRAS["books"], *EXTRAS["studio"], *EXTRAS["dev"]]},
)
