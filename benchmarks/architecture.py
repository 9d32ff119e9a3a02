"""Draw docs/images/architecture.svg: which package imports which, read from the source.

    python benchmarks/architecture.py

tests/unit/test_architecture.py reads the imports with the same functions.
"""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "images" / "architecture.svg"

# The packages, each of which may import those before it, and what is in them.
LAYERS = {
    "base": "errors, files, seeds, timm's door",
    "data": "tasks, packed splits, metrics",
    "peft": "the methods: attach, train, merge",
    "backbones": "architectures, weights, pre-training",
    "experiment": "config, specifications, plan",
    "records": "one JSON per run",
    "engine": "one run: specification to record",
    "search": "hyper-parameters, chosen on val",
    "results": "statistics, tables, plots, report",
    "cli": "mosa <verb>",
}


class Import(NamedTuple):
    """One import of a module of this project by another.

    Attributes:
        importer: The module that imports, such as mosa.data.packs.
        imported: The module that is imported.
        line: Where, in the importer's file.
        late: Whether importing the importer does not do it: it is within a function, or for type checkers.
    """

    importer: str
    imported: str
    line: int
    late: bool


def read_modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of all modules of mosa, by the modules' names."""
    modules = {}
    for path in sorted((root / "mosa").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(root: Path = ROOT) -> list[Import]:
    """Return every import of a module of mosa by another, wherever in the file it stands.

    A package that a module lies in is not imported by it, although Python runs its `__init__` first.
    """
    modules = read_modules(root)
    return [
        Import(importer, imported, node.lineno, late)
        for importer, path in modules.items()
        for node, late in _import_statements(ast.parse(path.read_text(encoding="utf-8")))
        for imported in _imported_by(node, importer, path, modules)
    ]


def _import_statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield the import statements below a node, and whether each is late."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late
        begins = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        )
        yield from _import_statements(child, late or begins)


def _imported_by(node: ast.stmt, importer: str, path: Path, modules: dict[str, Path]) -> list[str]:
    """Return the modules of this project that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        package = importer.split(".") if path.name == "__init__.py" else importer.split(".")[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if name in modules else base for name in inner]
    return [name for name in dict.fromkeys(names) if name in modules]


def package_of(module: str) -> str:
    """Return the package that a module belongs to, such as data; mosa for the root itself."""
    return module.split(".")[1] if "." in module else module


def package_imports(imports: list[Import]) -> dict[tuple[str, str], bool]:
    """Return the pairs (importer, imported) of packages, and whether all its imports are late."""
    pairs: dict[tuple[str, str], bool] = {}
    for each in imports:
        pair = package_of(each.importer), package_of(each.imported)
        if pair[0] != pair[1] and "mosa" not in pair:
            pairs[pair] = pairs.get(pair, True) and each.late
    return pairs


# In pixels. Packages are boxes on the diagonal, each one step to the right of the one before, and one down.
STEP_X, STEP_Y, BOX_X, BOX_Y, LEFT, TOP = 76, 44, 92, 30, 250, 44
COLOURS = ("#4e79a7", "#59a14f", "#b6992d", "#e15759", "#499894", "#79706e", "#d37295", "#b07aa1", "#9c6b4e")
COLOURS += ("#333333",)  # one per package
WRONG = "#d00000"


def draw(imports: list[Import]) -> str:
    """Return the figure as SVG.

    From a package a line goes up, and at a dot turns left, to the package that it imports. An import of a
    later package is a red dot on the other side of the diagonal.
    """
    names = list(LAYERS)
    width = LEFT + STEP_X * (len(names) - 1) + BOX_X + 16
    height = TOP + STEP_Y * (len(names) - 1) + BOX_Y + 44
    rules, boxes = zip(*(_box(row, name) for row, name in enumerate(names)), strict=True)
    pairs = sorted(package_imports(imports).items(), key=lambda pair: [names.index(n) for n in pair[0]])
    arrows = [_arrow(names.index(a), names.index(b), late) for (a, b), late in pairs]
    lines, dots = ([arrow[part] for arrow in arrows] for part in (0, 1))
    foot = height - 14
    key = [
        f'<circle cx="24" cy="{foot - 4}" r="4" fill="#555"/><text x="36" y="{foot}">at import time</text>',
        f'<circle cx="164" cy="{foot - 4}" r="3.5" fill="#fff" stroke="#555" stroke-width="1.5"/>'
        f'<text x="176" y="{foot}">only within functions, or for type checkers</text>',
        f'<circle cx="454" cy="{foot - 4}" r="4" fill="{WRONG}"/>'
        f'<text x="466" y="{foot}">of a later package: not allowed</text>',
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#444">'
    )
    title = f'<text x="16" y="24" font-size="14" fill="#222">{escape(_TITLE)}</text>'
    back = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, back, title, *rules, *lines, *boxes, *dots, *key, "</svg>"]) + "\n"


_TITLE = "Imports of mosa: from a package up to the dot, then left to the package that it imports"


def _place(row: int) -> tuple[float, float]:
    """Return the centre of a package's box."""
    return LEFT + STEP_X * row + BOX_X / 2, TOP + STEP_Y * row + BOX_Y / 2


def _box(row: int, name: str) -> tuple[str, str]:
    """Return what is in a package, with a rule that leads to its box, and the box."""
    x, y = _place(row)
    colour = COLOURS[row]
    text_end = 24 + 6.2 * len(LAYERS[name])
    rule = (
        f'<text x="16" y="{y + 4:g}">{escape(LAYERS[name])}</text>'
        f'<path d="M{text_end:g} {y:g}H{x - BOX_X / 2 - 4:g}" stroke="#ddd" stroke-dasharray="2 3"/>'
    )
    box = (
        f'<rect x="{x - BOX_X / 2:g}" y="{y - BOX_Y / 2:g}" width="{BOX_X}" height="{BOX_Y}" rx="5" '
        f'fill="{colour}"/><text x="{x:g}" y="{y + 4.5:g}" text-anchor="middle" font-weight="bold" '
        f'font-size="13" fill="#fff">{name}</text>'
    )
    return rule, box


def _arrow(importer: int, imported: int, late: bool) -> tuple[str, str]:
    """Return the line of an import, and its dot."""
    (x, start), (box, y) = _place(importer), _place(imported)
    allowed = imported < importer
    colour = COLOURS[imported] if allowed else WRONG
    side = 1 if allowed else -1
    end = box + side * BOX_X / 2
    line = (
        f'<path d="M{x:g} {start - side * BOX_Y / 2:g}V{y:g}H{end + side * 5:g}" fill="none" '
        f'stroke="{colour}" stroke-width="{1.2 if allowed else 2.5}"/>'
        f'<path d="M{end:g} {y:g}l{side * 8} -4v8z" fill="{colour}"/>'
    )
    fill = "#fff" if late else colour
    dot = f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
    return line, dot


def main() -> None:
    OUTPUT.write_text(draw(read_imports()), encoding="utf-8")
    print(OUTPUT)


if __name__ == "__main__":
    main()
