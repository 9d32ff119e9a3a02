"""ARCHITECTURE.md is true: imports go one way, light modules stay light, functions are short."""

import ast
import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 60  # lines of a function, docstring included

_spec = importlib.util.spec_from_file_location("architecture", ROOT / "benchmarks" / "architecture.py")
architecture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(architecture)


def misplaced(imports) -> list[str]:
    """Imports of a later package, and those that ARCHITECTURE.md rules out by name."""
    place = {name: number for number, name in enumerate(["mosa", *architecture.LAYERS])}
    ruled_out = {("peft", "data"), ("peft", "engine"), ("results", "engine")}
    found = []
    for each in imports:
        pair = importer, imported = [architecture.package_of(name) for name in each[:2]]
        if place[importer] < place[imported] or tuple(pair) in ruled_out:
            found.append(f"{each.importer}, line {each.line}: imports {each.imported}")
    return found


def circle(imports) -> list[str]:
    """Modules that import each other in a circle, in its order; empty: there is none."""
    graph = {}
    for each in imports:
        graph.setdefault(each.importer, set()).add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def long_functions(path: Path) -> list[str]:
    """Functions with a body of too many lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.body[0].lineno + 1
            if lines > LONGEST:
                found.append(f"{path}, line {node.lineno}: {node.name} has {lines} lines")
    return found


def source_tree(folder: Path, files: dict[str, str]) -> Path:
    """Write modules below a folder, and return it."""
    for name, text in files.items():
        path = folder / "mosa" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_packages_are_those_that_have_a_place():
    modules = architecture.read_modules()
    assert {architecture.package_of(name) for name in modules} == {"mosa", *architecture.LAYERS}


def test_imports_go_one_way():
    found = misplaced(architecture.read_imports())
    assert not found, "\n".join(found)


def test_modules_do_not_import_each_other_in_a_circle():
    found = circle(architecture.read_imports())
    assert not found, " -> ".join(found)


def test_functions_are_short():
    found = [line for path in architecture.read_modules().values() for line in long_functions(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("heavy", ["torch", "pandas"])
def test_reading_a_config_is_light(heavy):
    """Every module of mosa.experiment, each of which the workflow may import."""
    names = [name for name in architecture.read_modules() if name.startswith("mosa.experiment")]
    check_not_imported([*names, "mosa.records", "mosa.cli"], heavy)


def test_tables_plots_and_report_are_made_without_torch():
    names = [name for name in architecture.read_modules() if name.startswith("mosa.results")]
    check_not_imported(names, "torch")


def check_not_imported(modules: list[str], heavy: str) -> None:
    code = f"import sys\nimport {', '.join(modules)}\nsys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, heavy


def test_the_figure_shows_the_imports_as_they_are():
    drawn = architecture.draw(architecture.read_imports())
    assert architecture.OUTPUT.read_text(encoding="utf-8") == drawn, "run python benchmarks/architecture.py"


def test_every_package_is_described():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[mosa/(\w+)", text, re.MULTILINE) == list(architecture.LAYERS)


@pytest.mark.parametrize(
    "statement",
    [
        "import mosa.engine.loop",
        "from mosa.engine.loop import fit",
        "from mosa.engine import loop",
        "from ..engine import loop",
        "def lately():\n    from mosa.engine import loop",
        "class Late:\n    def method(self):\n        if self:\n            import mosa.engine.loop",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mosa.engine.loop import fit",
    ],
)
def test_every_form_of_import_is_seen(statement, tmp_path):
    files = {"__init__.py": "", "data/__init__.py": "", "data/packs.py": statement}
    root = source_tree(tmp_path, files | {"engine/__init__.py": "", "engine/loop.py": ""})
    imports = architecture.read_imports(root)
    assert [each[:2] for each in imports] == [("mosa.data.packs", "mosa.engine.loop")]
    assert imports[0].late == ("ate" in statement or "TYPE" in statement)
    assert len(misplaced(imports)) == 1
    red, in_the_key = (architecture.draw(some).count(architecture.WRONG) for some in (imports, []))
    assert red > in_the_key


def test_circles_are_found(tmp_path):
    files = {"__init__.py": "", "a.py": "import mosa.b", "c.py": "from mosa.a import x"}
    assert not circle(architecture.read_imports(source_tree(tmp_path, files | {"b.py": ""})))
    closed = source_tree(tmp_path, files | {"b.py": "def f():\n    from mosa import c"})
    assert set(circle(architecture.read_imports(closed))) == {"mosa.a", "mosa.b", "mosa.c"}


def test_long_functions_are_found(tmp_path):
    lines = ["class A:", "    def f(self):", '        """Say."""', *["        self.x = 1"] * (LONGEST - 1)]
    path = tmp_path / "module.py"
    path.write_text("\n".join(lines))
    assert not long_functions(path)
    path.write_text("\n".join([*lines, "        return 1"]))
    assert len(long_functions(path)) == 1
