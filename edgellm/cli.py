"""Command line: a table of commands, of which only the chosen one is imported.

Standard output carries only the requested data; everything else goes to standard error. The exit status is 0,
1 (failure), 2 (usage) or 130 (interrupted).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from edgellm import __version__
from edgellm.errors import (
    EdgeLLMError,
    MissingPackageError,
    NoMemoryError,
    UsageError,
    missing_engine,
    one_line,
)

if TYPE_CHECKING:
    from edgellm.commands.options import Command, Option
    from edgellm.commands.settings import Settings

# name -> (module with COMMAND, summary). A new command takes one line here and one file there.
COMMANDS = {
    "chat": ("edgellm.commands.chat", "talk with a model"),
    "run": ("edgellm.commands.run", "answer one prompt, from arguments or standard input"),
    "serve": ("edgellm.commands.serve", "serve models over HTTP"),
    "bench": ("edgellm.commands.bench", "measure how fast a model runs here"),
    "tune": ("edgellm.commands.tune", "find the fastest settings for a model here"),
    "pull": ("edgellm.commands.pull", "fetch a model"),
    "search": ("edgellm.commands.search", "find models on the Hugging Face Hub"),
    "fit": ("edgellm.commands.fit", "say which models suit this machine, and how fast"),
    "list": ("edgellm.commands.list", "list the models that are on disk or known by name"),
    "show": ("edgellm.commands.show", "show what a model file holds"),
    "rm": ("edgellm.commands.rm", "remove a fetched model"),
    "convert": ("edgellm.commands.convert", "convert a checkpoint to a GGUF file"),
    "quantize": ("edgellm.commands.quantize", "write a GGUF file in other formats"),
    "export": ("edgellm.commands.export", "write a copy of a model for programs in C"),
    "embed": ("edgellm.commands.embed", "embed the lines of a text"),
    "rerank": ("edgellm.commands.rerank", "order texts by how well they fit a query"),
    "eval": ("edgellm.commands.eval", "measure a model on a text"),
    "doctor": ("edgellm.commands.doctor", "check this machine, and a model file"),
}
ALIASES = {"ls": "list"}

_EXAMPLES = """\
examples:
  edgellm chat                                  talk with the default model
  edgellm chat model.gguf                       talk with any GGUF file
  edgellm chat user/repo:Q4_K_M                 talk with one of the Hugging Face Hub
  edgellm run "Why is the sky blue?"            one answer
  git diff | edgellm run "Summarize this"       standard input is part of the prompt
  edgellm COMMAND --help                        options and examples of a command
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show must not end an answer.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        status = _main(arguments)
        sys.stdout.flush()
        return status
    except EdgeLLMError as error:
        _say(f"edgellm: {one_line(error)}")
        return error.exit_code
    except ImportError as error:
        # Where a package has no build for the system, pip leaves it out (pyproject.toml).
        package = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package not in ("", "edgellm"):
            _say(f"edgellm: {MissingPackageError('this', package)}")
        elif sentence := missing_engine():
            _say(f"edgellm: {sentence}")
        else:
            raise
        return 1
    except MemoryError:
        _say(f"edgellm: {NoMemoryError('this command')}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()  # the reader has closed the pipe
        return 0
    except OSError as error:
        _drop_output()
        where = "writing the output" if error.filename is None else str(error.filename)
        _say(f"edgellm: {where}: {error.strerror or error}")
        return 1


def _drop_output() -> None:
    """Redirect standard output, so that unwritable text does not fail once more at Python's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[0] == "help":
            return _main([arguments[1], "--help"])
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        print(f"edgellm {__version__}")
        return 0
    name = ALIASES.get(arguments[0], arguments[0])
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    command = load_command(name)
    parser = make_parser(name, command)
    if not {"-h", "--help"} & set(arguments):
        # The parser would format the usage for its own errors, which takes 3 ms; our errors do not show it.
        parser.usage = ""
    parser.given = arguments[1:]
    parsed = parser.parse_intermixed_args(arguments[1:])

    from edgellm.commands.settings import resolve

    settings = resolve(name, command, parsed)
    if parsed.print_config:
        _print_config(command, settings)
        return 0
    if settings.values.get("offline"):
        # No library that is used from here on may access the network.
        os.environ["HF_HUB_OFFLINE"] = "1"
    if settings.values.get("backend", "interpreter") != "interpreter":
        # NumPy's BLAS starts a thread per core that spins for 50 ms. Only the interpreter multiplies with it,
        # and the cores have weights to pack.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return command.run(settings)


def load_command(name: str) -> Command:
    """The command of this name; imports its module."""
    command: Command = importlib.import_module(COMMANDS[name][0]).COMMAND
    return command


def make_parser(name: str, command: Command) -> _Parser:
    """Parser of one command's arguments; flags that are not given are None."""
    width = max((len(line) for line, _ in command.examples), default=0) + 2
    examples = "".join(f"  {line:<{width}}{what}\n" for line, what in command.examples)
    parser = _Parser(
        prog=f"edgellm {name}",
        description=command.description or command.summary,
        epilog=f"examples:\n{examples}\nEach option can be set as EDGELLM_NAME in the environment, or in the "
        "configuration\n"
        "file (~/.config/edgellm/config.toml); --print-config shows which value counts, and why.",
        # A fixed width: each argument makes a formatter, which would ask the terminal for its width.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=80),
        allow_abbrev=False,
    )
    for positional in command.positionals:
        count = None if positional.nargs == "1" else positional.nargs
        parser.add_argument(
            positional.name, nargs=count, metavar=positional.name.upper(), help=positional.help
        )
    for option in command.options:
        _add_option(parser, option)
    parser.add_argument("--print-config", action="store_true", help="show the values of all options and stop")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    text = option.help.replace("%", "%%")
    if option.kind.name == "switch":
        no = tuple("--no-" + flag[2:] for flag in option.flags if flag.startswith("--"))
        parser.add_argument(*option.flags, dest=option.name, action="store_true", default=None, help=text)
        parser.add_argument(*no, dest=option.name, action="store_false", default=None, help=argparse.SUPPRESS)
        return
    if option.default not in (None, ""):
        shown = option.default
        if isinstance(shown, list):
            shown = ",".join(map(str, shown))
        text += f" (default {shown})"

    def parse(value: str) -> object:
        try:
            return option.kind.parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        *option.flags,
        dest=option.name,
        type=parse,
        action="append" if option.repeated else "store",
        choices=option.choices or None,
        metavar="|".join(option.choices) or option.metavar or None,
        default=None,
        help=text,
    )


class _Parser(argparse.ArgumentParser):
    given: Sequence[str] = ()  # the arguments, for advice

    def error(self, message: str) -> NoReturn:
        from edgellm.commands.habits import about_option

        known = list(self._option_string_actions)
        unknown = message.partition("unrecognized arguments: ")[2].split()
        advice = about_option(self.given, unknown, known)
        raise UsageError(
            f"{self.prog.removeprefix('edgellm ')}: {advice or message}; see `{self.prog} --help`"
        )


def _overview() -> str:
    lines = ["usage: edgellm COMMAND [OPTIONS]", "", "Runs language models on this machine.", "", "commands:"]
    lines += [f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join([*lines, "", "  --version  --help", "", _EXAMPLES]).rstrip()


def _unknown(name: str) -> str:
    import difflib

    from edgellm.commands.habits import COMMANDS as HABITS

    if name in HABITS:
        return f"there is no command {name!r}: {HABITS[name]}"
    near = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
    if near:
        return f"there is no command {name!r}; did you mean `edgellm {near[0]}`?"
    if name.endswith(".gguf") or os.path.exists(name):
        return f"{name} is not a command; to talk with that model: `edgellm chat {name}`"
    return f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}"


def _print_config(command: Command, settings: Settings) -> None:
    from edgellm.commands.settings import recommended
    from edgellm.store.paths import config_file

    path = config_file()
    print(f"# {path}{'' if path.is_file() else ' (not there)'}")
    own = recommended(settings)
    for option in command.options:
        value, origin = settings[option.name], settings.origins[option.name]
        if value is None and option.name in own:
            value, origin = own[option.name]
        shown = "" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
        print(f"{option.name:<18} = {shown:<28} # {origin}")


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:
        # Nothing is left that could show an error.
        return
