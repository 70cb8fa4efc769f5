"""Constrained generation: masks of the allowed tokens, so that an answer fits a schema or a grammar.

llguidance (https://github.com/guidance-ai/llguidance) does the work; it is imported with the first grammar. A
grammar is compiled once and kept, and each answer steps a matcher of its own.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from edgellm.chat.relax import COSTLY, Relaxed, relax
from edgellm.chat.schema import check_pattern, grammar_schema
from edgellm.device.memory import free_addresses
from edgellm.engine.options import Constraint
from edgellm.engine.trial import TOO_COSTLY, Trial
from edgellm.errors import EdgeLLMError, MissingPackageError, NoMemoryError, UsageError
from edgellm.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

MAX_GRAMMARS = 64
MAX_FITTED = 1024
# First line of grammars that this program writes itself: no client can know it.
OWN = f"// {secrets.token_hex(16)}\n"
# Limits of a grammar's building (about 20 ms), of its work per token (about 15 ms), and of its memory (about
# 2 KiB per lexer state). One client's grammar must not hold up the tokens of all.
_ROOM_BYTES = 64 << 20
"""Addresses that compiling may take: the library ends the process if it gets none."""
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}


class Matcher:
    """Grammar state of one answer."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def mask(self) -> memoryview:
        """Allowed next tokens, one bit each (u32). End-of-generation tokens are set only where the answer may
        end.

        Raises UsageError if the grammar exceeds its limits here.
        """
        bits = self._matcher.compute_bitmask()
        self._check()
        return memoryview(bits).cast("I")

    def accept(self, token: int) -> bool:
        """Take a token that the mask allows; True if only the end can follow."""
        if not self._matcher.consume_token(token):
            self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UsageError(f"The grammar cannot go on here: {_first_line(self._matcher.get_error())}.")


class GrammarCompiler:
    """Compiles the constraints of one model's answers and keeps the latest ones; any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, *, max_kept: int = MAX_GRAMMARS) -> None:
        self._tokenizer = tokenizer
        self._max_kept = max_kept
        self._kept: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._build_lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._trial = Trial()
        self._fitted: OrderedDict[str, Relaxed] = OrderedDict()
        self._refused: OrderedDict[Constraint, str] = OrderedDict()

    @property
    def n_kept(self) -> int:
        return len(self._kept)

    def matcher(self, constraint: Constraint) -> Matcher:
        """Matcher at the beginning of a constraint's grammar; raises as `compile` does."""
        return Matcher(self.compile(constraint).deep_copy())

    def compile(self, constraint: Constraint) -> llguidance.LLMatcher:
        """Compile a constraint's grammar, unless it is kept from before.

        Raises UsageError if it is malformed, not supported, or beyond a limit.
        """
        with self._lock:
            compiled = self._kept.get(constraint)
            if compiled is not None:
                self._kept.move_to_end(constraint)
        if compiled is None:
            compiled = self._build(constraint)
            with self._lock:
                self._kept[constraint] = compiled
                while len(self._kept) > self._max_kept:
                    self._kept.popitem(last=False)
        return compiled

    def fit(self, schema: object) -> Relaxed:
        """Schema of a tool's arguments as far as a grammar can express it; see `chat.relax`. Never raises."""
        from edgellm.engine.fitting import fit

        key = json.dumps(schema)
        with self._lock:
            fitted = self._fitted.get(key)
        if fitted is None:
            fitted = fit(schema, self.failure)
            with self._lock:
                self._fitted[key] = fitted
                while len(self._fitted) > MAX_FITTED:
                    self._fitted.popitem(last=False)
        return fitted

    def failure(self, schema: object) -> str | None:
        """Reason why no grammar can be made of a schema; None if one can."""
        try:
            return self._trial.failure(_of_schema(schema))
        except (UsageError, ValueError, RecursionError) as error:
            return str(error)

    def _build(self, constraint: Constraint) -> llguidance.LLMatcher:
        try:
            import llguidance
        except ModuleNotFoundError:
            raise MissingPackageError(f"A {constraint.kind}", "llguidance") from None

        refused = self._refused.get(constraint)
        if refused is not None:
            raise UsageError(refused)
        room = free_addresses()
        if room is not None and room < _ROOM_BYTES:
            raise NoMemoryError(f"A {constraint.kind}")
        vocabulary = self._get_vocabulary()
        limits = llguidance.LLParserLimits(**_LIMITS)
        grammar = _to_llguidance(constraint)
        if _is_costly(constraint) and self._trial.failure(grammar) == TOO_COSTLY:
            self._check(constraint, TOO_COSTLY)  # other failures are found again, with the model's own tokens
        matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds a grammar without any sentence
        self._check(constraint, matcher.get_error() if matcher.is_error() else None)
        if matcher.is_stopped() and not matcher.is_accepting():
            raise UsageError(f"The {constraint.kind} cannot be used: no answer fits it.")
        return matcher

    def _check(self, constraint: Constraint, failure: str | None) -> None:
        """Raise UsageError for a grammar that failed, with the field of the schema that it failed on."""
        if failure is None:
            return
        reason = _first_line(failure)
        where = ""
        if constraint.kind == "schema":
            # Fields that tools' schemas would be relaxed at.
            notes = self.fit(json.loads(constraint.text)).notes
            where = f" at {notes[0]}" if notes else ""
        message = f"The {constraint.kind} cannot be used{where}: {reason}."
        with self._lock:
            self._refused[constraint] = message
            while len(self._refused) > self._max_kept:
                self._refused.popitem(last=False)
        raise UsageError(message)

    def close(self) -> None:
        """End the process that tries grammars."""
        self._trial.close()

    def _get_vocabulary(self) -> llguidance.LLTokenizer:
        with self._build_lock:
            if self._vocabulary is None:
                self._vocabulary = _make_vocabulary(self._tokenizer)
            return self._vocabulary


def _to_llguidance(constraint: Constraint) -> str:
    """The grammar in llguidance's form."""
    from llguidance import LLMatcher

    kind, text = constraint
    if kind == "schema":
        # GenerateOptions has checked that this is JSON.
        return _of_schema(_exact(json.loads(text)))
    if text.startswith(OWN):
        return LLMatcher.grammar_from_lark(text)
    check_pattern(text, kind, strings=kind != "regex")
    if kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    if "::=" in text:
        text = _lark_of_gbnf(text)
    return LLMatcher.grammar_from_lark(text)


def _of_schema(schema: Any) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(json.dumps(grammar_schema(schema)))


def _exact(schema: dict[str, Any]) -> Any:
    """The schema in a form that grammars can express, where nothing is lost by it; or as it is."""
    relaxed = relax(schema, exact=True)
    return schema if relaxed.notes else relaxed.schema


def _is_costly(constraint: Constraint) -> bool:
    """True for grammars whose compiling may take more than time in proportion to their length."""
    kind, text = constraint
    if kind == "schema" or text.startswith(OWN):
        return any(f'"{keyword}"' in text for keyword in COSTLY)
    return True


def _lark_of_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark: str = gbnf_to_lark(text)
    except (Exception, RecursionError) as error:  # the library's errors share no base class
        raise UsageError(f"The grammar is not valid GBNF: {_first_line(str(error))}.") from None
    return lark


def _first_line(message: str) -> str:
    return " ".join(message.split("\n<state>")[0].split())[:300].rstrip(".")


class _Vocabulary:
    """A model's tokens in the form that llguidance expects."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokenizer.all_token_bytes()
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        special = {token for token in range(tokenizer.n_vocab) if tokenizer.is_special(token)}
        self.special_token_ids = sorted(special | tokenizer.eog_ids)

    def __call__(self, text: str) -> list[int]:
        """Token ids of a text inside an answer; [] if they are ambiguous, which leaves the choice to the
        model.
        """
        wanted = text.encode("utf-8", "surrogateescape")
        for prefix in ("", "\n"):
            try:
                ids = self._tokenizer.encode(prefix + text, add_special=False)
            except EdgeLLMError:
                return []
            # SentencePiece puts a space before a text, not before what follows a line break.
            pieces = [self.tokens[token] for token in ids]
            while pieces and sum(map(len, pieces)) > len(wanted):
                del pieces[0], ids[0]
            if b"".join(pieces) == wanted:
                return ids
        return []


def _make_vocabulary(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    import llguidance

    eog = sorted(tokenizer.eog_ids)
    if not eog:
        raise UsageError("This model has no end-of-text token, so grammars cannot be used with it.")
    eos = tokenizer.eos_id if tokenizer.eos_id in tokenizer.eog_ids else eog[0]
    wrapper: Any = _Vocabulary(tokenizer, eos if eos is not None else eog[0])
    return llguidance.LLTokenizer(wrapper, eos_token=eog)
