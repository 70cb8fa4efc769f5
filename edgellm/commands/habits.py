"""Options and commands of other programs, with what to type here; read only when something is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from edgellm.errors import UsageError

# Options of llama.cpp and Ollama that have no counterpart here, or another name.
OPTIONS = {
    "-ngl": "edgellm runs on the CPU; leave it out",
    "--n-gpu-layers": "edgellm runs on the CPU; leave it out",
    "--gpu-layers": "edgellm runs on the CPU; leave it out",
    "-fa": "attention is always computed in blocks; leave it out",
    "--flash-attn": "attention is always computed in blocks; leave it out",
    "--mlock": "weights are packed into memory of their own; leave it out",
    "--no-mmap": "weights are packed into memory of their own; leave it out",
    "-ctk": "the type of the cache is --kv-type",
    "-ctv": "the type of the cache is --kv-type",
    "--cache-type-k": "the type of the cache is --kv-type",
    "--cache-type-v": "the type of the cache is --kv-type",
    "-f": "give the text on standard input: edgellm run < FILE",
    "--file": "give the text on standard input: edgellm run < FILE",
    "-hf": "name the model itself: edgellm chat user/repo:QUANT",
    "--hf-repo": "name the model itself: edgellm chat user/repo:QUANT",
    "-cnv": "edgellm chat is a conversation; leave it out",
    "-no-cnv": "edgellm run answers once; --raw leaves the chat template out",
    "-st": "edgellm run answers once; leave it out",
    "--single-turn": "edgellm run answers once; leave it out",
    "-i": "edgellm chat is interactive; leave it out",
    "--jinja": "chat templates are always used; leave it out",
    "--chat-template": "the chat template comes from the model's file",
    "-np": "the number of requests at a time is --parallel, of edgellm serve",
    "-ub": "the tokens of a step are --batch-size",
    "--ubatch-size": "the tokens of a step are --batch-size",
    "--color": "answers are coloured on a terminal unless NO_COLOR is set; leave it out",
    "--verbose": "run has --stats, and chat /set verbose",
    "--format": "an answer in JSON: --json-object or --schema, of edgellm run",
    "--keepalive": "a server unloads unused models after --idle-unload",
    "--repeat_penalty": "it is spelled --repeat-penalty",
}

COMMANDS = {
    "ps": "a server lists its models at /api/ps, and edgellm list those on disk",
    "stop": "edgellm runs no server in the background; Ctrl+C ends one, or systemctl stop edgellm",
    "signin": "no account is needed; for models that ask for one, `hf auth login` or HF_TOKEN",
    "signout": "no account is needed; `hf auth logout` forgets the Hub's",
    "login": "no account is needed; for models that ask for one, `hf auth login` or HF_TOKEN",
    "update": "edgellm pull NAME fetches a model; pip install --upgrade edgellm updates the program",
    "models": "edgellm list shows them, edgellm fit which of them suit this machine",
    "recommend": "edgellm fit shows which models suit this machine",
    "create": "a model is a GGUF file; edgellm convert makes one from a checkpoint",
    "cp": "models are plain files: copy them as any file",
    "push": "edgellm uploads nothing; the Hub's own tool is `hf upload`",
    "install": "edgellm pull NAME fetches a model",
    "download": "edgellm pull NAME fetches a model",
    "remove": "edgellm rm NAME removes a model",
    "delete": "edgellm rm NAME removes a model",
    "info": "edgellm show FILE shows what a model file holds",
    "ask": 'edgellm run "QUESTION" answers once',
    "server": "edgellm serve serves models over HTTP",
    "perplexity": "edgellm eval perplexity MODEL measures it",
    "benchmark": "edgellm bench -m MODEL measures speed",
}

# Names of Ollama's parameters that have another name here.
_PARAMETERS = {"num_predict": "max_tokens", "repeat_last_n": "penalty_last_n"}
_SETTINGS = {
    "num_ctx": "the context is chosen at the start: edgellm chat MODEL -c TOKENS",
    "num_thread": "the threads are chosen at the start: edgellm chat MODEL -t THREADS",
    "history": "a chat always has its history; /clear forgets it",
    "nohistory": "a chat always has its history; /clear forgets it",
    "wordwrap": "lines are as long as the terminal is wide",
    "nowordwrap": "lines are as long as the terminal is wide",
    "format": "an answer in JSON: edgellm run --json-object or --schema",
    "noformat": "answers are free unless edgellm run --json-object or --schema asks for more",
}


def chat_setting(text: str) -> str:
    """A setting of Ollama's chat, as /set takes it here; other text as it is.

    UsageError with what to do for one that cannot be set.
    """
    name, _, value = text.partition(" ")
    if name == "parameter":
        name, _, value = value.strip().partition(" ")
        name = _PARAMETERS.get(name, name)
    elif name == "nothink":
        name, value = "think", "off"
    elif name == "think" and not value.strip():
        value = "on"
    elif name == "quiet":
        name, value = "verbose", "off"
    if name in _SETTINGS:
        raise UsageError(f"there is no setting {name}: {_SETTINGS[name]}")
    return f"{name} {value}".strip()


def about_option(given: Sequence[str], unknown: Sequence[str], known: Sequence[str]) -> str:
    """A sentence about an unknown option: its meaning elsewhere, or the known one that it resembles; "" if
    there is nothing to say.

    given: all arguments. Those of one letter may have been taken for an option and its value: -ngl is -n gl.
    """
    names = [argument.partition("=")[0] for argument in given]
    habit = next((name for name in names if name in OPTIONS and name not in known), None)
    if habit is not None:
        return f"there is no option {habit}: {OPTIONS[habit]}"
    if not unknown or not unknown[0].startswith("-"):
        return ""
    name = unknown[0].partition("=")[0]
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no option {name}" + (f": did you mean {near[0]}?" if near else "")
