"""The /commands of a chat."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgellm.commands.conversation import Conversation, say
from edgellm.commands.loading import note_of_end
from edgellm.commands.options import SWITCH
from edgellm.errors import UsageError
from edgellm.store.resolve import is_model_name

if TYPE_CHECKING:
    from edgellm.commands.conversation import Reply

HELP = '''\
/help             this
/clear            forget the conversation
/system TEXT      instructions for the model; without TEXT: remove them
/set NAME VALUE   change temperature, top_k, think, verbose, ...; without NAME: show them
/model NAME       go on with another model
/show             the model, its instructions and the context
/regen            answer the last message again
/undo             take back the last message and its answer
/read FILE        put a text file before the next message
/save FILE        write the conversation to a file
/load FILE        go on with a conversation from a file
/thoughts         what the model thought before its last answer
/stats            what the last answer cost
/context          how much of the context is used
/bye              leave (or Ctrl+D)

Alt+Enter or Ctrl+J begins a new line, and so does a message between """ and """. Tab completes commands
and files. A message that begins with a slash is typed with two. Ctrl+C stops an answer.'''


def obey(conversation: Conversation, text: str) -> bool:
    """Run a /command; False if it ends the conversation."""
    word, _, rest = text[1:].partition(" ")
    if word in ("bye", "exit", "quit"):
        return False
    command = COMMANDS.get(word)
    if command is None:
        near = difflib.get_close_matches(word, [*COMMANDS, "bye"], n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists what there is."
        raise UsageError(f"There is no /{word}; {hint} (A message that begins with a slash: /{text})")
    command.run(conversation, rest.strip())
    return True


def finish(conversation: Conversation, reply: Reply) -> None:
    """Print the cost of an answer."""
    if note := note_of_end(reply, conversation.model.n_ctx):
        say(f"edgellm: {note}")
    say(conversation.cost(reply), dim=True)
    if conversation.verbose:
        _details(reply)


def _system(conversation: Conversation, text: str) -> None:
    if text:
        conversation.system = text
        say("The model gets these instructions from the next message on.", dim=True)
    elif conversation.system is None:
        say("There are no instructions; /system TEXT sets them.", dim=True)
    else:
        say(f"Removed: {conversation.system}", dim=True)
        conversation.system = None


def _set(conversation: Conversation, text: str) -> None:
    from edgellm.commands.habits import chat_setting

    name, _, value = chat_setting(text).partition(" ")
    if name == "system":
        _system(conversation, value.strip().strip('"'))
        return
    if not name:
        for key, value in {**conversation.known_options(), "verbose": conversation.verbose}.items():
            say(f"{key} = {'not set' if value is None else value}", dim=True)
        return
    if not value.strip() and name != "verbose":
        raise UsageError(f"/set {name} needs a value, such as /set temperature 0.7")
    if name == "verbose":
        try:
            conversation.verbose = SWITCH.parse(value.strip() or "on")
        except ValueError:
            raise UsageError(f"/set verbose is on or off, not {value.strip()!r}") from None
    else:
        conversation.set_option(name, value.strip())


def _model(conversation: Conversation, name: str) -> None:
    if not name:
        say(f"This is {conversation.model.name}; /model NAME goes on with another.", dim=True)
        return
    conversation.change_model(name)
    say(f"{conversation.model.name} goes on with the conversation.", dim=True)


def _show(conversation: Conversation, _: str) -> None:
    for line in conversation.described():
        say(line, dim=True)


def _clear(conversation: Conversation, _: str) -> None:
    conversation.clear()
    say("The conversation is forgotten.", dim=True)


def _regenerate(conversation: Conversation, _: str) -> None:
    finish(conversation, conversation.regenerate())


def _undo(conversation: Conversation, _: str) -> None:
    say(f"Taken back: {conversation.undo()}", dim=True)


def _read(conversation: Conversation, text: str) -> None:
    path = _path(text, "/read")
    say(f"{conversation.attach(path)} characters of {path} come before your next message.", dim=True)


def _save(conversation: Conversation, text: str) -> None:
    path = _path(text, "/save")
    if path.exists() and not conversation.confirm(f"{path} exists already", "Replace it?"):
        say("Nothing is saved.", dim=True)
        return
    conversation.save(path)
    say(f"Saved to {path}.", dim=True)


def _load(conversation: Conversation, text: str) -> None:
    path = _path(text, "/load")
    if not path.exists() and is_model_name(text):
        raise UsageError(f"/load reads a conversation from a file; /model {text} goes on with another model")
    conversation.load(path)
    say(f"{len(conversation.messages)} messages from {path}.", dim=True)


def _thoughts(conversation: Conversation, _: str) -> None:
    if not conversation.thoughts.last:
        raise UsageError("The model has thought nothing before its last answer")
    say(conversation.thoughts.last.strip("\n"), dim=True)


def _stats(conversation: Conversation, _: str) -> None:
    reply = conversation.last
    if reply is None or reply.stats is None:
        raise UsageError("There is no answer yet")
    say(conversation.cost(reply), dim=True)
    _details(reply)


def _details(reply: Reply) -> None:
    stats = reply.stats
    if stats is None:
        return
    say(
        f"prompt: {stats.n_prompt} tokens, {stats.n_cached} of them known from before, the others at "
        f"{stats.prompt_tok_s:.1f} a second\n"
        f"answer: {stats.n_generated} tokens in {stats.generate_s:.2f} s; "
        f"ended by {reply.finish_reason}",
        dim=True,
    )


def _context(conversation: Conversation, _: str) -> None:
    used, n_ctx = conversation.n_tokens(), conversation.model.n_ctx
    share = "" if n_ctx is None else f" of {n_ctx}"
    percent = "" if n_ctx is None else f" ({100 * used / n_ctx:.0f} %)"
    left_out = f", the oldest {conversation.n_left_out} left out" if conversation.n_left_out else ""
    say(f"{used}{share} tokens{percent} in {len(conversation.messages)} messages{left_out}", dim=True)


def _help(conversation: Conversation, _: str) -> None:
    say(HELP)


class ChatCommand(NamedTuple):
    """A command, and the kind of its argument for completion: file, setting, model or none."""

    run: Callable[[Conversation, str], None]
    kind: str = ""


COMMANDS = {
    "help": ChatCommand(_help),
    "?": ChatCommand(_help),
    "clear": ChatCommand(_clear),
    "system": ChatCommand(_system),
    "set": ChatCommand(_set, "setting"),
    "model": ChatCommand(_model, "model"),
    "show": ChatCommand(_show),
    "regen": ChatCommand(_regenerate),
    "undo": ChatCommand(_undo),
    "read": ChatCommand(_read, "file"),
    "save": ChatCommand(_save, "file"),
    "load": ChatCommand(_load, "file"),
    "thoughts": ChatCommand(_thoughts),
    "stats": ChatCommand(_stats),
    "context": ChatCommand(_context),
}


def _path(text: str, command: str) -> Path:
    if not text:
        raise UsageError(f"{command} needs a file: {command} FILE")
    return Path(text).expanduser()
