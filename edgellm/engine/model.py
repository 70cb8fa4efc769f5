"""Loaded model: text in; text, logits and embeddings out."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from edgellm.backends.base import Backend, Floats, SavingBackend
from edgellm.engine.adapters import Choice, Scales, choose_scales, name_adapters
from edgellm.engine.load_options import DEFAULT_DRAFT_MAX, LoadOptions
from edgellm.engine.loading import Loading
from edgellm.engine.options import GenerateOptions, changed, sampling_defaults
from edgellm.engine.planning import LoadPlan
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import Generation, make_request
from edgellm.errors import EdgeLLMError, UsageError
from edgellm.gguf.reader import GGUFFile
from edgellm.program import Program
from edgellm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgellm.chat.template import ChatTemplate
    from edgellm.engine.draft_model import DraftModel
    from edgellm.engine.governor import Governor
    from edgellm.engine.grammar import GrammarCompiler
    from edgellm.engine.option_changes import OptionChanges
    from edgellm.engine.prefix_disk import PrefixDisk
    from edgellm.engine.prefix_store import PrefixStore
    from edgellm.engine.ranking import Ranked
    from edgellm.engine.request import Event, Request, TokenMatcher
    from edgellm.engine.sampling import Sampled
    from edgellm.engine.thoughts import ThoughtBudget

T = TypeVar("T")
CHAT_KEYWORDS = ("tools", "tool_choice", "think", "on_thought", "template_variables")


class Model:
    """A model file and the engine that runs it; without an engine if it was loaded for its vocabulary alone.

    Methods may be called from several threads. Generations that run at the same time share each step.
    """

    def __init__(
        self,
        loading: Loading,
        meanwhile: Callable[[Model], None] | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        """Finish a load that has begun; see `load`."""
        file, planned = loading.file, loading.planned
        self.path: Path = file.path
        self.metadata: Mapping[str, Any] = file.metadata
        self.threads = planned.threads if planned else 0
        self.memory: dict[str, int] = {}
        self.notes: list[str] = [*file.metadata.warnings]  # and options without effect, with the reason
        self.adapters = name_adapters(planned.options.lora) if planned else ()
        self._program = planned.program if planned else None
        self._backend: Backend | None = None
        self._scheduler: Scheduler | None = None
        self._draft: DraftModel | None = None
        self._planned = planned
        self._file = file
        # The engine packs weights on threads of its own while the tokenizer is built.
        try:
            self.tokenizer = _tokenizer(file)
            self.sampling_defaults = sampling_defaults(file.metadata)
            if meanwhile is not None:
                meanwhile(self)
            file.release_metadata()
            loaded = loading.result()
            if planned is not None and loaded is not None:
                self._backend, self.memory, self._draft = loaded
                self._scheduler = self._schedule(planned, self._backend, store)
        except BaseException:
            loading.abandon()
            raise
        self.load_s = time.perf_counter() - loading.begun

    @classmethod
    def load(
        cls,
        path: Path,
        options: LoadOptions,
        *,
        vocab_only: bool = False,
        meanwhile: Callable[[Model], None] | None = None,
        store: PrefixStore | None = None,
    ) -> Model:
        """Open and load a GGUF file; see `edgellm.load`.

        meanwhile: called once the tokenizer exists, while the engine still reads the weights. store: keeps
        computed prefixes beyond this process.
        """
        return cls(Loading(path, options, vocab_only=vocab_only), meanwhile, store)

    def _schedule(self, planned: LoadPlan, backend: Backend, store: PrefixStore | None) -> Scheduler:
        asked = planned.options.draft_max
        if planned.no_drafts and (asked or planned.options.draft):
            self.notes.append(f"speculative decoding is off: {planned.no_drafts}")
        return Scheduler(
            backend,
            self.tokenizer.eog_ids,
            n_vocab=self.tokenizer.n_vocab,
            max_active=planned.options.parallel,
            max_waiting=planned.options.max_waiting,
            max_cached=planned.n_cached_sequences,
            draft_max=0 if planned.no_drafts else DEFAULT_DRAFT_MAX if asked is None else asked,
            draft=self._draft,
            disk=None if store is None else _disk(store, planned, backend),
            governor=_governor(planned.options),
        )

    def __repr__(self) -> str:
        if self._program is None:
            what = "vocabulary alone"
        else:
            what = f"{self._program.family}, " + (f"context {self.n_ctx}" if self._backend else "closed")
        return f"<edgellm.Model {self.name!r} ({what}) from {self.path.name}>"

    @property
    def name(self) -> str:
        """The file's own name for the model, or else its file name."""
        name = self.metadata.get("general.name")
        return name if isinstance(name, str) and name else self.path.stem

    @property
    def program(self) -> Program:
        return _loaded(self._program)

    @property
    def backend(self) -> Backend:
        return _loaded(self._backend)

    @property
    def scheduler(self) -> Scheduler:
        return _loaded(self._scheduler)

    @property
    def n_ctx(self) -> int:
        """Context in tokens, for a prompt and its answer together."""
        return self.backend.n_ctx

    @property
    def n_vocab(self) -> int:
        return self.tokenizer.n_vocab

    @cached_property
    def template(self) -> ChatTemplate:
        """The file's chat template; raises TemplateError if it is malformed."""
        from edgellm.chat.template import ChatTemplate

        return ChatTemplate.from_metadata(self.metadata, self.tokenizer)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Compiler of the grammars that answers must follow."""
        from edgellm.engine.grammar import GrammarCompiler

        return GrammarCompiler(self.tokenizer)

    def matcher(self, options: GenerateOptions) -> TokenMatcher | None:
        """Matcher of the schema, regular expression or grammar that the options name; None if they name none.

        Raises UsageError if it is malformed, not supported or beyond the limits.
        """
        constraint = options.constraint
        return None if constraint is None else self.grammars.matcher(constraint)

    def thought_budget(self, options: GenerateOptions, prompt: Sequence[int]) -> ThoughtBudget | None:
        """Budget of an answer's thoughts; None without a limit, or if the template knows no thoughts."""
        if options.think_budget is None:
            return None
        from edgellm.engine.thoughts import ThoughtBudget

        syntax = self.template.thoughts()
        if not syntax.limits_thoughts:
            return None
        return ThoughtBudget(self.tokenizer, syntax, prompt, options.think_budget)

    def compile_grammar(self, options: GenerateOptions) -> None:
        """Compile the grammar that the options name, if any, so that `matcher` finds it.

        It takes milliseconds, for the first grammar of a model up to a second. Raises as `matcher` does.
        """
        if options.constraint is not None:
            self.grammars.compile(options.constraint)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        add_special: add the tokens that the model expects around a text, such as the beginning of sequence.
        parse_special: names of special tokens in the text become those tokens instead of plain text.
        """
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of token ids; invalid UTF-8 becomes U+FFFD. UsageError for ids outside the vocabulary."""
        try:
            return self.tokenizer.decode(ids, skip_special=skip_special)
        except IndexError as error:
            raise UsageError(f"The text cannot be made: {error}.") from None

    def generate(
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions | None = None,
        *,
        shown: frozenset[int] = frozenset(),
        **changes: Unpack[OptionChanges],
    ) -> Generation:
        """Continue a prompt; iterate over the result for the pieces of text, or take its `text`.

        changes: options as keywords (`max_tokens=100`), which win over `options`. A text is tokenized with
        the model's own special tokens around it; names of special tokens in it stay plain text. shown:
        control tokens whose texts are part of the answer. Raises UsageError for an option that is unknown or
        out of range, ContextOverflowError if the prompt leaves no room for an answer, and FileChangedError if
        the file was overwritten meanwhile.
        """
        self._file.check()
        chosen = changed(options, changes)
        self.check_generates()
        ids = self.tokenize(prompt, add_special=True) if isinstance(prompt, str) else list(map(int, prompt))
        return Generation(self.scheduler, self._maker(ids, chosen, shown))

    def _maker(
        self, ids: Sequence[int], options: GenerateOptions, shown: frozenset[int]
    ) -> Callable[[Callable[[Event], None]], Request]:
        """Function that makes the request of an answer."""
        matcher, scales = self.matcher(options), self.scales(options.lora)
        thoughts = self.thought_budget(options, ids)
        return lambda on_event: make_request(
            ids,
            options,
            n_vocab=self.backend.n_vocab,
            decoder=self.tokenizer.stream(shown=shown),
            on_event=on_event,
            matcher=matcher,
            scales=scales,
            thoughts=thoughts,
            defaults=self.sampling_defaults,
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str = "auto",
        think: str | bool | None = None,
        on_thought: Callable[[str], None] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Generation:
        """Answer a conversation of {"role", "content"} messages; iterate over the result, or take its `text`.

        The pieces and the text are words alone: `message` has the thoughts and the tool calls, and on_thought
        gets pieces of thoughts as they come. tools: functions as the OpenAI API writes them. tool_choice:
        auto, none, required, or the name of the tool to call. think: on, off, low, medium or high (None: as
        the template has it). template_variables: variables of the chat template. changes: as in `generate`.
        Raises UsageError for a level of thinking that the template cannot honour, and as `generate`.
        """
        chosen = changed(options, changes, CHAT_KEYWORDS)
        self.check_generates()
        levels = {} if think is None else self.think_variables(think)
        apart = bool(tools) or (self.template.may_think and self.template.thoughts().thinks)
        if apart and (tools or chosen.constraint is None or chosen.constraint.kind == "schema"):
            from edgellm.chat.tools import read_choice, read_tools
            from edgellm.engine.chat_session import ChatGeneration
            from edgellm.engine.conversation import prepare

            known = read_tools(tools)
            choice = read_choice(tool_choice, known)
            made = prepare(
                self,
                messages,
                chosen,
                tools=known,
                choice=choice,
                levels=levels,
                variables=template_variables,
            )
            make = self._maker(made.ids, made.options, made.shown)
            return ChatGeneration(self.scheduler, make, made.parser(), on_thought)
        if self.template.stops:
            chosen = replace(chosen, stop=(*chosen.stop, *self.template.stops))
        ids = self.template.encode(messages, **{**levels, **(template_variables or {})})
        return Generation(self.scheduler, self._maker(ids, chosen, frozenset()))

    def think_variables(self, level: str | bool) -> Mapping[str, Any]:
        """Template variables of a level of thinking; UsageError if the template cannot honour it."""
        if isinstance(level, bool):
            level = "on" if level else "off"
        known = self.template.thinking()
        if level not in known:
            raise UsageError(
                f"{self.name}: think is {level!r}; this model's chat template takes {', '.join(known)}."
            )
        return known[level]

    def scales(self, lora: Choice | None = None) -> Scales:
        """Factor of each adapter; lora: the choice, or None for the factors given at load. Empty if none is
        used.

        Raises UsageError for an adapter that is not loaded, or a factor out of range.
        """
        return choose_scales(self.adapters, lora)

    def logits(self, ids: Sequence[int], *, lora: Choice | None = None) -> Floats:
        """Logits (n_tokens, n_vocab) of every position of one sequence.

        lora: as in GenerateOptions. Raises ContextOverflowError if the sequence exceeds the context.
        """
        self.check_generates()
        from edgellm.engine.reading import all_logits

        tokens, scales = self._check_ids(ids), self.scales(lora)
        return self.scheduler.exclusively(len(tokens), lambda backend: all_logits(backend, tokens, scales))

    def token_logprobs(self, ids: Sequence[int], n_top: int, *, lora: Choice | None = None) -> list[Sampled]:
        """Log-probability of each token given those before it, with the n_top likeliest; the first has none.

        lora: as in GenerateOptions. Raises ContextOverflowError if the sequence exceeds the context.
        """
        from edgellm.engine.reading import token_logprobs

        self.check_generates()
        tokens, scales = self._check_ids(ids), self.scales(lora)
        return self.scheduler.exclusively(
            len(tokens), lambda backend: token_logprobs(backend, tokens, scales, n_top)
        )

    def perplexity(self, ids: Sequence[int], *, lora: Choice | None = None) -> float:
        """exp of the mean loss of the tokens, as `losses` has them."""
        windows = self.losses(ids, lora=lora)
        return math.exp(sum(float(window.sum()) for window in windows) / sum(map(len, windows)))

    def losses(
        self,
        ids: Sequence[int],
        *,
        lora: Choice | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Any]:
        """Negative log-likelihoods of the tokens, each given those before it: an array for each window.

        A text longer than the context is cut into windows of that size, each computed on its own. The first
        token of a window is not scored. Needs at least two tokens. progress: called with the numbers of
        tokens done and to do.
        """
        from edgellm.engine.reading import losses

        self.check_generates()
        tokens, scales = self._check_ids(ids), self.scales(lora)
        if len(tokens) < 2:
            raise UsageError("Perplexity needs at least two tokens.")
        found = []
        for start in range(0, len(tokens), self.n_ctx):
            window = tokens[start : start + self.n_ctx]
            if len(window) < 2:
                break
            work = partial(
                losses, tokens=window, scales=scales, progress=progress, place=(start, len(tokens))
            )
            found.append(self.scheduler.exclusively(len(window), work))
        return found

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        lora: Choice | None = None,
    ) -> Floats:
        """Embeddings (n_texts, width) of texts, or (width,) of one text: hidden states of length 1, pooled as
        the model's file says.

        prompt_name: the prompt of the file to put before each text, such as "query"; None: its default one,
        or none. prompt: a text instead of it. dimensions: only the first ones, for models that were trained
        so. Raises UsageError for a name or a number that the model does not have, and as `embed_ids`.
        """
        from edgellm.engine.embedding import prompt_text

        before = prompt_text(self.metadata, prompt_name) if prompt is None else prompt
        given = [texts] if isinstance(texts, str) else texts
        ids = [self.tokenize(before + text, add_special=True) for text in given]
        rows = self.embed_ids(ids, dimensions=dimensions, lora=lora)
        return rows[0] if isinstance(texts, str) else rows

    def embed_ids(
        self, texts: Sequence[Sequence[int]], *, dimensions: int | None = None, lora: Choice | None = None
    ) -> Floats:
        """Embeddings (n_texts, width) of tokenized texts, which share steps where the model is an encoder.

        Raises ContextOverflowError for a text that exceeds the context, UsageError if the model ranks texts.
        """
        from edgellm.engine.embedding import embeddings

        return embeddings(self, [self._check_ids(ids) for ids in texts], self.scales(lora), dimensions)

    def rerank(
        self, query: str, documents: Sequence[str], top_n: int | None = None, *, lora: Choice | None = None
    ) -> list[Ranked]:
        """Documents by how well they fit a query, the best first: places and scores of 0 to 1.

        The model is a reranker: it has a head for pairs of texts, or a prompt that asks for yes or no.
        Raises UsageError for another one, ContextOverflowError for a query that exceeds the context.
        """
        from edgellm.engine.ranking import best_first, check_ranks, pair_ids, scores

        check_ranks(self)
        pairs = [pair_ids(self, query, text) for text in documents]
        return best_first(scores(self, pairs, lora).tolist(), top_n)

    @property
    def changed(self) -> bool:
        """True if the model's file, or its draft model's, has another content by now."""
        return self._planned is not None and self._planned.changed

    def close(self) -> None:
        """End running generations and free the model's memory."""
        if self._scheduler is not None:
            self._scheduler.stop()
        if self._backend is not None:
            self._backend.close()
        if self._draft is not None:
            self._draft.close()
        self._scheduler, self._backend, self._draft = None, None, None
        if self._planned is not None:
            self._planned.close_draft()
        self._file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_generates(self) -> None:
        """Raise UsageError if the model makes embeddings and no text."""
        if self.program.logits is None:
            raise UsageError(
                f"{self.name}: {self.program.family} models read text and make embeddings. "
                "To write, use a generative model."
            )

    def _check_ids(self, ids: Sequence[int]) -> list[int]:
        self._file.check()
        try:
            tokens = list(map(operator.index, ids))
        except TypeError:
            raise UsageError("The token ids must be integers.") from None
        if not tokens:
            raise UsageError("The text holds no tokens; give at least one.")
        if min(tokens) < 0 or max(tokens) >= self.backend.n_vocab:
            raise UsageError(f"The token ids must lie in 0..{self.backend.n_vocab - 1}.")
        return tokens


def _tokenizer(file: GGUFFile) -> Tokenizer:
    try:
        return Tokenizer.from_metadata(file.metadata)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None


def _governor(options: LoadOptions) -> Governor | None:
    """Governor of the options; None, and nothing imported, if they slow nothing down."""
    if options.max_temp is None and options.on_battery == "full":
        return None
    from edgellm.engine.governor import Governor

    return Governor(options.max_temp, eco=options.on_battery == "eco")


def _disk(store: PrefixStore, planned: LoadPlan, backend: Backend) -> PrefixDisk:
    """Disk side of the prefix cache; UsageError if the backend cannot save sequences."""
    from edgellm.engine.prefix_disk import PrefixDisk, model_key

    if not isinstance(backend, SavingBackend):
        raise UsageError(
            f"The {planned.backend} backend cannot save what it has read; use --backend native or no "
            f"--cache-dir."
        )
    key = model_key(planned.file, planned.program, planned.adapters, planned.kv_type, backend.variant)
    return PrefixDisk(store, key, backend)


def _loaded(part: T | None) -> T:
    if part is None:
        raise UsageError(
            "The model was loaded for its vocabulary alone, or has been closed; load it with its weights."
        )
    return part
