"""Each example says what it needs beside the service's own packages."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "ops" / "examples").glob("*.py"))
OURS = {"interfaces"}
LOCKED = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_to_install(example: Path) -> None:
    """What it imports that requirements.lock does not have is in its docstring's `pip install`, and nothing else."""
    tree = ast.parse(example.read_text(encoding="utf-8"))
    modules = {
        name.partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    told = re.findall(r"^ +pip install (.+)$", ast.get_docstring(tree) or "", re.MULTILINE)
    assert set(" ".join(told).split()) == modules - sys.stdlib_module_names - OURS - LOCKED
