"""What is installed is what is here."""

import tomllib
from pathlib import Path

RINGS = ("domain", "application", "infrastructure", "interfaces")


def test_each_package_of_the_tree_is_installed(checkout: Path) -> None:
    """Every folder of the four rings that holds Python, and no other; whatever else lies in it goes along."""
    setuptools = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    files = [path.relative_to(checkout) for ring in RINGS for path in (checkout / ring).rglob("*") if path.is_file()]
    modules = {path for path in files if path.suffix == ".py"}
    assert sorted(setuptools["packages"]) == sorted({".".join(path.parent.parts) for path in modules})
    data = {
        path.relative_to(checkout)
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in checkout.joinpath(*package.split(".")).glob(pattern)
    }
    assert {path for path in files if "__pycache__" not in path.parts} == modules | data
