"""docs/help holds what --help prints. After a change of options: python -m tests.test_help"""

import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dg.options.common import Command, texts

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "help"
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
WIDTH = 100  # columns; --help itself follows the terminal


def commands():
    """Yield (name of the text, script's command, arguments before --help) of all scripts and their
    subcommands."""
    for script in SCRIPTS:
        command = importlib.import_module(script).main
        yield script, command, []
        if isinstance(command, click.Group):
            yield from ((f"{script}-{name}", command, [name]) for name in sorted(command.commands))


COMMANDS = {name: (command, before) for name, command, before in commands()}


def help_text(name, width=WIDTH):
    command, before = COMMANDS[name]
    result = CliRunner().invoke(
        command, [*before, "--help"], prog_name=f"{name.split('-')[0]}.py", terminal_width=width
    )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_docs_hold_the_help_text(name):
    path = FOLDER / f"{name}.txt"
    assert path.exists() and path.read_text(encoding="utf-8") == help_text(name), (
        "run: python -m tests.test_help"
    )


def test_docs_hold_no_other_help_text():
    assert {path.stem for path in FOLDER.iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    command, before = COMMANDS[name]
    command = command.commands[before[0]] if before else command
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_text_fits_80_columns(name):
    assert [line for line in help_text(name, 80).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_an_option_does_not_lean_on_another(name):
    command, before = COMMANDS[name]
    command = command.commands[before[0]] if before else command
    leaning = ("Of ", "And ", "Or ", "Its ", "Their ", "Such ")
    helps = [option.help for option in command.params if isinstance(option, click.Option)]
    assert [text for text in helps if text.startswith(leaning)] == []


def test_options_stand_under_headings_in_their_order():
    @click.command(
        cls=Command,
        sections={
            "Images": [click.option("--outdir", help="Folder."), click.option("--seed", help="S.")],
            "Sampler": [click.option("--steps", help="Steps.")],
        },
    )
    @click.argument("name")
    def command(outdir, seed, steps, name):
        pass

    assert [param.name for param in command.params] == ["outdir", "seed", "steps", "name"]
    printed = CliRunner().invoke(command, ["--help"]).output
    assert printed.split("\n\n", 1)[1] == (
        "Images:\n  --outdir TEXT  Folder.\n  --seed TEXT    S.\n\n"
        "Sampler:\n  --steps TEXT   Steps.\n\n"
        "Help:\n  --help         Show this message and exit.\n"
    )


def test_examples_follow_the_options():
    parts = texts("Does a thing.\n\n\b\nExamples:\n  python x.py\n")
    assert parts == {"help": "Does a thing.\n\n", "epilog": "\b\nExamples:\n  python x.py\n"}
    printed = help_text("generate")
    assert printed.index("Images:") < printed.index("Examples:") < printed.index("--seeds 0-63")


def rewrite():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name in COMMANDS:
        (FOLDER / f"{name}.txt").write_text(help_text(name), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
