"""What `mosa --help` shows: the verbs by subject, with examples; and their page of documentation."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import click

from mosa.base.grid import markdown_table

# Commands as a user types them, by verb. A test parses every one.
EXAMPLES = {
    "make-data": ["mosa make-data demo/digits --image-size 32 --output digits.safetensors"],
    "pretrain": ["mosa pretrain --images 10000 --output micro_vit.safetensors"],
    "check": [
        "mosa check --configfile configs/vtab1k.yaml",
        "mosa check --configfile configs/vtab1k.yaml --quick --json",
    ],
    "plan": ["mosa plan --configfile configs/vtab1k.yaml"],
    "memory": ["mosa memory --configfile configs/backbones.yaml --gradient-checkpointing"],
    "train": [
        "mosa train --task demo/digits --pack digits.safetensors --method lora "
        '--options \'{"rank": 8}\' --training \'{"lr": 0.03, "epochs": 8}\' --output seed0.json'
    ],
    "tune": [
        "mosa tune --task demo/digits --pack digits.safetensors --method lora "
        '--space \'{"training": {"lr": [0.003, 0.01]}}\' --folder trials --output lora.json'
    ],
    "choose": ["mosa choose lora.json --output choice.json"],
    "verify": ["mosa verify --configfile configs/demo-full.yaml", "mosa verify results/runs --json"],
    "reproduce": ["mosa reproduce results/runs/demo/digits/micro_vit/mosa/seed0.json"],
    "tables": [
        "mosa tables --records results/runs --output tables",
        "mosa tables --records results/runs --variants linear,adapter,mosa --metric nll --output tables",
    ],
    "plots": ["mosa plots --records results/runs --output plots"],
    "report": ["mosa report --records results/runs --output report.html"],
    "methods": ["mosa methods mosa lora", "mosa methods --json"],
    "tasks": ["mosa tasks vtab1k", "mosa tasks --json"],
}
_OTHER = "Other"


class Sections(click.Group):
    """A group of commands that its help lists by subject, in the order in which they were added."""

    def add(self, section: str, commands: Sequence[click.Command]) -> None:
        """Add commands under a subject, each with its examples."""
        for command in commands:
            command.section = section
            command.epilog = examples(EXAMPLES.get(command.name or "", []))
            self.add_command(command)

    def sections(self) -> dict[str, list[click.Command]]:
        """Return the commands by subject."""
        found: dict[str, list[click.Command]] = {}
        for command in self.commands.values():
            if not command.hidden:
                found.setdefault(getattr(command, "section", _OTHER), []).append(command)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; of a config that is given as an argument, say which option takes it."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            taken = error.ctx.command.params if error.ctx else ()
            configs = re.findall(r"[^\s()]+\.ya?ml(?=[\s)])", error.message)
            if type(error) is click.UsageError and configs and any(each.name == "files" for each in taken):
                error.message = f"{configs[0]} is a config, not an argument; put --configfile before it"
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [command.name or "" for commands in self.sections().values() for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in self.sections().items():
            with formatter.section(section):
                formatter.write_dl(
                    [(command.name or "", command.get_short_help_str(400)) for command in commands]
                )


def examples(commands: Sequence[str]) -> str | None:
    """Return commands as the end of a help text, whose lines click leaves as they are."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in commands)]) if commands else None


def commands_page(group: Sections) -> str:
    """Return the documentation of all commands, in Markdown."""
    lines = [
        "# Commands",
        "",
        "Written by `mosa schema` from the commands themselves; do not edit. `mosa --help` and",
        "`mosa VERB --help` say the same. The commands that a script reads take `--json`. Completion in a",
        "shell: [below](#completion).",
    ]
    for section, commands in group.sections().items():
        lines += ["", f"## {section}"]
        for command in commands:
            lines += ["", f"### `mosa {command.name}`", "", *_described(command, f"mosa {command.name}")]
            for below in command.commands.values() if isinstance(command, click.Group) else ():
                name = f"mosa {command.name} {below.name}"
                lines += ["", f"#### `{name}`", "", *_described(below, name)]
    return "\n".join([*lines, "", *_COMPLETION]) + "\n"


def _described(command: click.Command, name: str) -> Iterator[str]:
    yield inspect.cleandoc(command.help or "")
    ctx = click.Context(command, info_name=name)
    usage = command.get_usage(ctx).removeprefix("Usage: ").split()
    yield from ("", "```text", " ".join(usage), "```")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if options:
        named = (option.get_help_record(ctx) or ("", "") for option in options)
        rows = ((f"`{name}`", text) for name, text in named)
        cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
        yield from ("", markdown_table(("option", "meaning"), cells))
    if examples := EXAMPLES.get(command.name or ""):
        yield from ("", *(f"    {line}" for line in examples))


_COMPLETION = [
    "## Completion",
    "",
    "Verbs, options and their choices are completed by the shell with one line in its start-up file:",
    "",
    markdown_table(
        ("shell", "file", "line"),
        (
            ("bash", "`~/.bashrc`", '`eval "$(_MOSA_COMPLETE=bash_source mosa)"`'),
            ("zsh", "`~/.zshrc`, after `compinit`", '`eval "$(_MOSA_COMPLETE=zsh_source mosa)"`'),
            (
                "fish",
                "`~/.config/fish/completions/mosa.fish`",
                r"`_MOSA_COMPLETE=fish_source mosa \| source`",
            ),
        ),
    ),
]
