"""Every command that a page or a help text prints is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from detectron2.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# Mentions such as `detectron2 eval --data` leave out what is not talked about.
LEFT_OUT = ("MissingParameter", "BadOptionUsage", "NoArgsIsHelpError")
MENTION = re.compile(r"`(detectron2 [^`]+)`")


def commands_of_blocks(text):
    for language, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else ():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:1] == ["detectron2"]:
                    yield words[1:]


def leaves(command, path=()):
    """(words, command) of every verb."""
    for name, child in getattr(command, "commands", {}).items():
        yield (*path, name), child
        yield from leaves(child, (*path, name))


COMMAND = typer.main.get_command(app)
VERBS = list(leaves(COMMAND))


def parse(words):
    """Raises what click raises where a word, an option or a value is not understood."""
    words, command = list(words), COMMAND
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    context = command.make_context("detectron2", words)
    # What is left over for a group is the name of a verb.
    if words and hasattr(command, "commands"):
        command.resolve_command(context, words)


def understood(words):
    """Whether a mention is a command but for what it leaves out."""
    try:
        parse(words)
    except Exception as error:  # click's, or those of the copy of click within typer
        if type(error).__name__ not in LEFT_OUT:
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_understood(page):
    text = page.read_text(encoding="utf-8")
    for words in commands_of_blocks(text):
        parse(words)
    for mention in MENTION.findall(BLOCK.sub("", text)):
        understood(shlex.split(mention)[1:])


@pytest.mark.parametrize("words", [words for words, _ in VERBS], ids="-".join)
def test_every_verb_has_an_example_that_is_understood(words):
    parts = dict(VERBS)[words].epilog.removeprefix("Examples: ").removeprefix("Example: ")
    examples = [shlex.split(part.removeprefix("then ")) for part in parts.split("; ")]
    commands = [rest for name, *rest in examples if name == "detectron2"]
    assert any(tuple(rest[: len(words)]) == words for rest in commands)
    for rest in commands:
        parse(rest)


def test_a_command_that_is_not_there_is_found_out():
    for words in (
        ["predict", "a.jpg", "--wieghts", "b"],
        ["prodict", "a.jpg"],
        ["train", "a", "b"],
    ):
        with pytest.raises(Exception, match=r"wieghts|prodict|\(b\)"):
            parse(words)
