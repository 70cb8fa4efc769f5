"""Plans a GGUF file's metadata and tensors from a checkpoint's config and tensor names, reading no weights.

A family lists the parts of its file: a GGUF name, the checkpoint tensors that it is made from, and the step
between. Several parts may have the same name where checkpoints of one family differ; the first one whose
sources all exist is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from edgellm.errors import ModelError
from edgellm.families.config import Config
from edgellm.families.transforms import Copy, Half, Shape, Stack, Transform

Value = int | float | bool | str | list[int] | list[bool]

# First words of names in a model with a head; a model that was saved alone lacks them.
_MODELS = ("model", "gpt_neox", "backbone", "transformer", "roberta")
# Words that trainers and models of several parts put around a text model's names, or between them.
_WRAPPERS = re.compile(
    r"^(?:module\.|base_model\.model\.|thinker\.|llm\.|_orig_mod\.|_fsdp_wrapped_module\.)+"
    r"|_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\."
)
# Prefixes around a text model's names: in the checkpoint -> as families write them.
_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.text_model.", "model."),
    ("model.model.", "model."),
    ("text_model.model.", "model."),
    ("model.lm_head.", "lm_head."),
    ("model.mtp.", "mtp."),
    ("bert.", ""),
    ("mpnet.", ""),
)
# Tensors that no family reads: cached constants, other modalities, heads of other tasks.
_IGNORED = (
    r".*\.rotary_emb\.inv_freq",
    r".*\.(attn|attention)\.(masked_)?bias",
    r"mtp\..*",
    r".*(visual|vision_tower|vision_model|audio_tower|multi_modal_projector|embed_vision|embed_audio)\..*",
)


_COPY = Copy()


class Part(NamedTuple):
    """One tensor of the file, the checkpoint tensors that it is made from, and the step between."""

    name: str
    sources: tuple[str, ...]
    make: Transform = _COPY
    optional: bool = False


class Parts:
    """Tensors of a file, in order, as a family lists them for one config."""

    def __init__(self) -> None:
        self.items: list[Part] = []
        # Blocks of multi-token prediction: all of them or none.
        self.more: list[Part] = []
        self.numbers: dict[str, tuple[str, ...]] = {}

    def add(self, name: str, *sources: str, make: Transform = _COPY, optional: bool = False) -> None:
        """Add one tensor by its full names."""
        self.items.append(Part(name, sources, make, optional))

    def metadata(self, key: str, *sources: str) -> None:
        """Add a list of the metadata, by its full key: numbers of checkpoint tensors of one value each."""
        self.numbers[key] = sources

    def layer(
        self,
        to: str,
        source: str,
        names: Mapping[str, str],
        make: Mapping[str, Transform] | None = None,
    ) -> None:
        """Add a layer's weights and optional biases: `to`.gguf from `source`.hf."""
        for gguf, hf in names.items():
            step = (make or {}).get(gguf, _COPY)
            target = f"{to}.{gguf}" if to else gguf
            self.add(f"{target}.weight", f"{source}.{hf}.weight", make=step)
            self.add(f"{target}.bias", f"{source}.{hf}.bias", make=step, optional=True)

    def stacked_experts(self, to: str, source: str) -> None:
        """Add a layer's experts from stacked tensors, if they exist: gate and up rows in one, down in
        another.
        """
        for gguf, half in (("ffn_gate_exps", Half("first", axis=1)), ("ffn_up_exps", Half("second", axis=1))):
            self.add(f"{to}.{gguf}.weight", f"{source}.gate_up_proj", make=half, optional=True)
        self.add(f"{to}.ffn_down_exps.weight", f"{source}.down_proj", optional=True)

    def experts(self, to: str, source: str, names: Mapping[str, str], n_experts: int) -> None:
        """Add a layer's experts: stacked, or `to`.gguf from the matrices `source`.0.hf, `source`.1.hf, ..."""
        self.stacked_experts(to, source)
        for gguf, hf in names.items():
            sources = (f"{source}.{expert}.{hf}.weight" for expert in range(n_experts))
            self.add(f"{to}.{gguf}.weight", *sources, make=Stack())


class Checkpoint(NamedTuple):
    """Checkpoints of a family: their model types, and the file's metadata and tensors for a config.

    metadata: keys without the architecture's prefix. ignored: patterns of checkpoint tensors that the file
    does not hold. defaults: by model type, values of config keys that published configs leave out. mixture:
    the model type of a file with experts, where it is not the first one, or of a family that shares another's
    model type. architecture: another GGUF architecture, for a config of one (None: not so).
    """

    model_types: tuple[str, ...]
    metadata: Callable[[Config], dict[str, Value]]
    parts: Callable[[Config], Parts]
    ignored: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    mixture: str | None = None
    architecture: Callable[[Config], str | None] | None = None

    def config(self, values: Mapping[str, Any]) -> Config:
        """The checkpoint's config, with the defaults of its model type."""
        return Config(values, self.defaults.get(Config(values).model_type, {}))


class PlannedTensor(NamedTuple):
    """One tensor to write: name, shape, sources by their names in the checkpoint, and the step between."""

    name: str
    shape: Shape
    sources: tuple[str, ...]
    make: Transform


class CheckpointPlan(NamedTuple):
    """Contents of a file to write: the metadata of its architecture, without the tokenizer, and tensors.

    numbers: keys of lists of the metadata, and the checkpoint tensors that hold their values; `completed` has
    them.
    """

    architecture: str
    metadata: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    numbers: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def completed(self, read: Callable[[str], float]) -> CheckpointPlan:
        """The plan with the numbers that `read` gives for the names of checkpoint tensors."""
        found = {key: [read(name) for name in sources] for key, sources in self.numbers.items()}
        return self._replace(metadata=self.metadata | found, numbers={})


def plan_tensors(
    checkpoint: Checkpoint, config: Config, shapes: Mapping[str, Shape]
) -> tuple[tuple[PlannedTensor, ...], dict[str, tuple[str, ...]]]:
    """Match a family's parts with a checkpoint's tensors (name -> shape): tensors, and numbers of metadata.

    Raises ModelError for a missing tensor, one that does not fit, and one that the family does not know.
    """
    listed = checkpoint.parts(config)
    wanted = [source for part in (*listed.items, *listed.more) for source in part.sources]
    wanted += [source for sources in listed.numbers.values() for source in sources]
    actual = _by_source(wanted, shapes)
    holds_more = any(source in actual for part in listed.more for source in part.sources)
    parts = listed.items + (listed.more if holds_more else [])
    numbers = _numbers(listed, actual, shapes)
    planned: dict[str, PlannedTensor] = {}
    used = {name for names in numbers.values() for name in names}
    for part in parts:
        if part.name in planned or not all(source in actual for source in part.sources):
            continue
        sources = tuple(actual[source] for source in part.sources)
        used.update(sources)
        planned[part.name] = PlannedTensor(part.name, _shape(part, sources, shapes), sources, part.make)
    _refuse_missing(parts, planned, actual)
    ignored = list(checkpoint.ignored)
    if not listed.more:
        # Layers of multi-token prediction, of a family whose file has no place for them.
        n_more = config.integer("num_nextn_predict_layers", default=0, minimum=0, maximum=64)
        ignored += (rf"model\.layers\.{config.n_layers + i}\..*" for i in range(n_more))
    _refuse_unknown((name for name in shapes if name not in used), ignored, config)
    return tuple(planned.values()), numbers


def _numbers(
    listed: Parts, actual: Mapping[str, str], shapes: Mapping[str, Shape]
) -> dict[str, tuple[str, ...]]:
    """The checkpoint's names of the tensors that are numbers of the metadata."""
    found = {}
    for key, sources in listed.numbers.items():
        names = [actual.get(source, source) for source in sources]
        for name in names:
            if prod(shapes.get(name, (0,))) != 1:
                raise ModelError(
                    f"checkpoint tensor {name!r} is {shapes.get(name, 'missing')}, expected one number (for "
                    f"metadata {key!r}); the checkpoint is incomplete, download it again"
                )
        found[key] = tuple(names)
    return found


def canonical(name: str) -> str:
    """A tensor's name as families write it: no prefixes around a text model, norms' weight and bias."""
    name = _WRAPPERS.sub("", name)
    for prefix, plain in _PREFIXES:
        if name.startswith(prefix):
            name = plain + name.removeprefix(prefix)
            break
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _by_source(sources: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """The checkpoint's names by those of the parts; a bare model's lack the first word (`model.`)."""
    actual = {canonical(name): name for name in names}
    for source in sources:
        bare = next((b for b in _without_model(source) if b in actual), None)
        if source not in actual and bare is not None:
            actual[source] = actual[bare]
    return actual


def _without_model(source: str) -> tuple[str, ...]:
    """The names of a tensor in the checkpoint of a model without a head."""
    first, _, bare = source.partition(".")
    return (bare, f"language_model.{bare}", f"text_model.{bare}") if first in _MODELS else ()


def same_weight(name: str, source: str) -> bool:
    """True if a checkpoint or an adapter may write the name for a family's source."""
    return canonical(name) in (source, *_without_model(source))


def _shape(part: Part, sources: Sequence[str], shapes: Mapping[str, Shape]) -> Shape:
    try:
        return part.make.shape([shapes[source] for source in sources])
    except (ValueError, IndexError) as error:
        raise ModelError(f"checkpoint tensor {sources[0]!r} does not make {part.name!r}: {error}") from None


def _refuse_missing(parts: Sequence[Part], planned: Mapping[str, object], actual: Mapping[str, str]) -> None:
    for part in parts:
        if part.name not in planned and not part.optional:
            missing = next(source for source in part.sources if source not in actual)
            raise ModelError(
                f"checkpoint tensor {missing!r} is missing (for {part.name!r}); "
                "the checkpoint is incomplete, download it again"
            )


def _refuse_unknown(names: Iterable[str], ignored: Iterable[str], config: Config) -> None:
    tied = (r"lm_head\.weight", r"embed_out\.weight") if config.tied else ()
    patterns = [re.compile(pattern) for pattern in (*_IGNORED, *ignored, *tied)]
    for name in names:
        if not any(pattern.fullmatch(canonical(name)) for pattern in patterns):
            raise ModelError(
                f"checkpoint tensor {name!r} has no place in a model of type {config.model_type!r}; "
                "the checkpoint is a variant that edgellm does not implement"
            )
