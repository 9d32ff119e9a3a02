"""Verbs for a method of one's own: a template of it, and the checks that it has to pass."""

import json
import sys
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosa.base.errors import UserError, unknown
from mosa.base.words import count
from mosa.cli.options import Written

if TYPE_CHECKING:
    from mosa.peft.conformance import Finding

_TEMPLATE = '''"""{title}: a method of my own."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import block_width, channel_dim, find_blocks, part_of, sites_of
from mosa.peft.method import Method


class {title}(Method):
    """A low-rank branch on the output of every MLP.

    y = m + s B A m, where m is the output of the MLP, A has r rows and B has r columns. B is zero at the
    start, so the model starts as the backbone. Tuned parameters of a block of width d: 2 d r.
    """

    name: ClassVar[str] = "{name}"
    reference: ClassVar[str] = "none: the template of `mosa new method`"

    rank: int = Field(default=8, ge=1, description="Rank r of the branch.")
    scale: float = Field(default=1.0, description="Factor s of the branch.")

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "{name}")
        for block in find_blocks(model):
            mlp = part_of(block, sites_of(block).mlp)
            branch = Branch(self, block_width(block), channel_dim(mlp), rng)
            block.{name}_branch = branch.to(next(block.parameters()))
            mlp.register_forward_hook(block.{name}_branch.add_to_output)

    def block_parameters(self, block: nn.Module) -> int:
        return 2 * block_width(block) * self.rank


class Branch(nn.Module):
    """s B A m, for channels at a dimension of m: the last one, or 1 in convolutional blocks."""

    def __init__(self, options: {title}, width: int, dim: int, rng: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Linear(width, options.rank, bias=False)
        self.b = nn.Linear(options.rank, width, bias=False)
        self.scale, self.dim = options.scale, dim
        nn.init.normal_(self.a.weight, std=width**-0.5, generator=rng)
        nn.init.zeros_(self.b.weight)

    def forward(self, m: Tensor) -> Tensor:
        return self.scale * self.b(self.a(m.movedim(self.dim, -1))).movedim(-1, self.dim)

    def add_to_output(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        """Return y: a hook on the MLP."""
        return output + self(output)
'''


@click.group()
def new() -> None:
    """Write a template to start from."""


@new.command("method")
@click.argument("name")
@click.option("--output", type=Written(".py"), help="File to write; by default NAME.py.")
def new_method(name: str, output: Path | None) -> None:
    """Write a method of your own, NAME, that passes `mosa conformance` as it stands."""
    from mosa.base.files import written_atomically
    from mosa.experiment.specification import list_known

    if (
        not name.isidentifier()
        or not name.isascii()
        or name != name.lower()
        or name.startswith("_")
        or iskeyword(name)
    ):
        raise UserError(
            f"the name {name!r} cannot be that of a method; expected lower-case letters, digits and '_', a "
            "letter first, such as my_method"
        )
    if name in list_known():
        raise UserError(f"there is a method {name!r} already; take another name")
    path = output or Path(f"{name}.py")
    if path.exists():
        raise UserError(f"{path}: is there already; take another name, or another --output")
    title = "".join(part.capitalize() for part in name.split("_"))
    with written_atomically(path) as temporary:
        temporary.write_text(_TEMPLATE.format(name=name, title=title), encoding="utf-8")
    click.echo(
        f"wrote {path}\n\nCheck it:   mosa conformance {path}:{title}\nRead it:    mosa methods --plugin "
        f"{path}\nCompare it: in a config,\n\n    plugins: [{path}]\n    variants:\n      {name}: "
        f"{{method: {name}, options: {{rank: 4}}}}"
    )


def _options(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
    """Parse key=value, the value as JSON or as text."""
    found = {}
    for text in value:
        key, equals, content = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r}: expected KEY=VALUE, such as rank=4")
        try:
            found[key] = json.loads(content)
        except ValueError:
            found[key] = content
    return found


@click.command()
@click.argument("method", metavar="FILE[:CLASS]")
@click.option(
    "--architecture",
    "architectures",
    multiple=True,
    help="A name of timm's, a backbone of the plugin, or one of the small ones of the default. Repeatable.",
)
@click.option("--option", "options", multiple=True, callback=_options, help="KEY=VALUE. Repeatable.")
def conformance(method: str, architectures: tuple[str, ...], options: dict[str, Any]) -> None:
    """Run the checks that every method here passes on one of your own, and say what is wrong.

    FILE may be a module, too. Ends with status 1 if something is wrong.
    """
    from mosa.base.plugins import Wanted, use
    from mosa.experiment.plugins import describe
    from mosa.peft.conformance import check
    from mosa.peft.subject import ARCHITECTURES

    reference, _, wanted = method.partition(":")
    (plugin,) = use([Wanted(reference)])
    describe(plugin)
    classes = {cls.__name__: name for name, cls in plugin.entries.get("method", {}).items()}
    if not classes:
        raise UserError(f"plugin {reference}: defines no method")
    if wanted and wanted not in classes:
        raise unknown(f"method of {reference}", wanted, classes)
    failed = False
    for title in [wanted] if wanted else classes:
        found = []
        for architecture in architectures or ARCHITECTURES:
            found += check(classes[title], options, [architecture])
            click.echo("\n".join(_described(title, found[-1])))
        text, good = _summed_up(title, found)
        click.echo(text)
        failed |= not good
    if failed:
        sys.exit(1)


def _described(title: str, one: "Finding") -> list[str]:
    """Return what was found of a method on an architecture, in lines."""
    from mosa.peft.checks import CHECKS

    place = f"{title} on {one.architecture}"
    if one.unfit:
        return [f"{place}: not checked, as {one.unfit}"]
    problems = [f"{place}: {name}: {problem}" for name, problem in one.problems.items()]
    return problems or [f"{place}: {count(len(CHECKS), 'check')} passed"]


def _summed_up(title: str, findings: "list[Finding]") -> tuple[str, bool]:
    """Return the last line on a method, and whether all is in order."""
    bad = sum(bool(one.problems) for one in findings)
    done = sum(not one.unfit for one in findings)
    if not done:
        return (
            f"{title}: fits none of these architectures, so nothing was checked; take --architecture",
            False,
        )
    return f"{title}: {done - bad} of {count(done, 'architecture is', 'architectures are')} in order", not bad
