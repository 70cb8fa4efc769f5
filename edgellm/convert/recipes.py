"""Formats of a file's tensors: the mixes that llama.cpp made usual, by the same rules and names.

A mix has a base format; tensors that matter more get a better one: the head, part of the values and of
the down projections. Rows that are not whole blocks get a format of smaller blocks, and then the head is not
lifted at the expense of the rest: see `_spread`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgellm.errors import UsageError
from edgellm.families.registry import f32_pattern
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant.native import ENCODERS, n_bytes

Shape = tuple[int, ...]
Override = tuple[re.Pattern[str], GGMLType]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A type that `--type` names: its base format and its number in `general.file_type`.

    only_experts: of a mixture of experts, only the experts' matrices have the base format.
    """

    name: str
    base: GGMLType
    file_type: int
    only_experts: bool


RECIPES: dict[str, Recipe] = {
    mix.recipe: Recipe(mix.recipe, kind, mix.number, mix.name.endswith("_MOE"))
    for kind in GGMLType
    for mix in kind.mixes
    if mix.recipe
}
FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def recipe(name: str) -> Recipe:
    """The recipe of that name, in any case; UsageError lists them."""
    found = RECIPES.get(name.upper())
    if found is None:
        raise UsageError(f"the type {name[:40]!r} is not known, expected one of {', '.join(RECIPES)}")
    return found


def parse_override(text: str) -> Override:
    """`REGEX=TYPE`, TYPE a format such as Q6_K; UsageError if it is not that."""
    pattern, _, name = text.rpartition("=")
    writable = {kind.name: kind for kind in sorted(ENCODERS)}
    if not pattern or name.upper() not in writable:
        raise UsageError(
            f"--tensor-type is {text[:80]!r}, expected REGEX=TYPE with a type out of {', '.join(writable)}"
        )
    try:
        return re.compile(pattern), writable[name.upper()]
    except re.error as error:
        raise UsageError(f"--tensor-type: {pattern[:80]!r} is not a regular expression ({error})") from None


def choose_types(
    chosen: Recipe,
    shapes: Mapping[str, Shape],
    *,
    n_experts: int = 0,
    n_gqa: int = 1,
    overrides: Sequence[Override] = (),
) -> dict[str, GGMLType]:
    """The format of each tensor of a file, in the order of `shapes` (NumPy order: (rows, cols)).

    n_gqa: query heads per key head. The first override whose expression is found in a name wins, but no
    vector is quantized. Raises UsageError if its format does not fit the tensor's rows.
    """
    values = [name for name in shapes if re.search(r"attn_(v|qkv|kv_b)\.weight$", name)]
    downs = [name for name in shapes if re.search(r"ffn_down(_exps)?\.weight$", name)]
    mix = _Mix(chosen, values, downs, n_experts, n_gqa, "output.weight" in shapes)
    types = {}
    free = []
    for name, shape in shapes.items():
        override = next((kind for pattern, kind in overrides if pattern.search(name)), None)
        if override is not None and (len(shape) >= 2 or override in FLOATS):
            if shape[-1] % LAYOUTS[override].block_size:
                raise UsageError(
                    f"--tensor-type: {name} has rows of {shape[-1]} values, expected a multiple of "
                    f"{LAYOUTS[override].block_size} for {override.name}; choose another type"
                )
            types[name] = override
        elif not is_quantized(name, shape):
            types[name] = GGMLType.F32
        else:
            types[name] = fitting(mix.type_of(name, shape), shape[-1])
            free.append(name)
    if mix.head in free and chosen.base.block_size == 256:
        _spread(types, shapes, mix.head, sorted(free, key=mix.rank))
    return types


def file_types(
    chosen: Recipe,
    architecture: str,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    overrides: Sequence[Override] = (),
) -> dict[str, GGMLType]:
    """As `choose_types`, with counts of experts and heads out of the file's metadata."""
    n_heads = count(metadata, f"{architecture}.attention.head_count", 1)
    n_kv_heads = count(metadata, f"{architecture}.attention.head_count_kv", 1)
    n_experts = count(metadata, f"{architecture}.expert_count", 0)
    n_gqa = n_heads // max(1, n_kv_heads)
    return choose_types(chosen, shapes, n_experts=n_experts, n_gqa=n_gqa, overrides=overrides)


def count(metadata: Mapping[str, Any], key: str, default: int) -> int:
    """A count in a file's metadata; of one per layer, the largest."""
    value = metadata.get(key, default)
    counts = value if isinstance(value, list) else [value]
    return max((n for n in counts if isinstance(n, int)), default=default)


def _spread(types: dict[str, GGMLType], shapes: Mapping[str, Shape], head: str, names: Sequence[str]) -> None:
    """Give the bytes of a head whose rows are no super-blocks to the matrices that they help most.

    Six bits become eight there, a third of a small model's file. The head does with as much in Q5_1, and what
    is left lifts the others in the order of `names`. Gemma 3 270M as Q4_K_M: divergence .12 at 253 MB before,
    .02 at 239 MB after.
    """
    better = GGMLType.Q8_0
    others = [
        name
        for name in names
        if name != head and types[name] != better and shapes[name][-1] % better.block_size == 0
    ]
    if types[head] != better or not others:
        return
    saved = room = n_bytes(better, shapes[head]) - n_bytes(GGMLType.Q5_1, shapes[head])
    lifted = []
    for name in others:
        more = n_bytes(better, shapes[name]) - n_bytes(types[name], shapes[name])
        if more <= room:
            lifted.append(name)
            room -= more
    # A head too small to lift much is left alone.
    if len(lifted) == len(others) or room < saved / 2:
        types |= dict.fromkeys(lifted, better) | {head: GGMLType.Q5_1}


def is_quantized(name: str, shape: Shape) -> bool:
    """True if a tensor takes part in the mix; the others are F32."""
    return len(shape) >= 2 and name.endswith(".weight") and not f32_pattern().fullmatch(name)


@dataclass(frozen=True, slots=True)
class _Mix:
    recipe: Recipe
    values: list[str]
    downs: list[str]
    n_experts: int
    n_gqa: int
    has_output: bool

    @property
    def head(self) -> str:
        """The matrix that gives the logits."""
        return "output.weight" if self.has_output else "token_embd.weight"

    def rank(self, name: str) -> int:
        """Small numbers for matrices in which a byte helps more."""
        if not name.startswith("blk."):
            return 3
        return 0 if name in self.values else 1 if name in self.downs else 2

    def type_of(self, name: str, shape: Shape) -> GGMLType:
        base, mix = self.recipe.base, self.recipe.name
        if base in FLOATS:
            return base
        if name == self.head:
            return base if base == GGMLType.Q8_0 else GGMLType.Q6_K if shape[-1] % 256 == 0 else GGMLType.Q8_0
        if self.recipe.only_experts and self.n_experts:
            return base if "_exps." in name else GGMLType.Q8_0
        if name in self.values:
            return self._value(mix, base, self.values.index(name), len(self.values))
        if name.endswith("attn_k.weight") and self.n_experts == 8 and mix.startswith("Q"):
            return GGMLType.Q8_0
        if name in self.downs:
            return self._down(mix, base, self.downs.index(name), len(self.downs))
        if name.endswith("attn_output.weight"):
            if self.n_experts == 8 and mix in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"):
                return GGMLType.Q5_K
            return {"Q2_K": GGMLType.Q3_K, "Q3_K_M": GGMLType.Q4_K}.get(mix, base)
        return base

    def _value(self, mix: str, base: GGMLType, index: int, n: int) -> GGMLType:
        if self.n_experts == 8 and mix.startswith("Q"):
            return GGMLType.Q8_0
        match mix:
            case "Q2_K":
                return GGMLType.Q4_K if self.n_gqa >= 4 else GGMLType.Q3_K
            case "Q3_K_M":
                return GGMLType.Q5_K if index < 2 else GGMLType.Q4_K
            case "Q4_K_M" | "Q5_K_M":
                return GGMLType.Q6_K if _more_bits(index, n) else base
            case "Q4_K_S":
                return GGMLType.Q5_K if index < 4 else base
            case _ if mix.startswith("IQ4"):
                return GGMLType.Q5_K if self.n_gqa >= 4 else base
        return base

    def _down(self, mix: str, base: GGMLType, index: int, n: int) -> GGMLType:
        match mix:
            case "Q2_K":
                return GGMLType.Q3_K
            case "Q3_K_M":
                return GGMLType.Q5_K if index < n // 16 else GGMLType.Q4_K
            case "Q4_K_M" | "Q5_K_M":
                return GGMLType.Q6_K if _more_bits(index, n) else base
            case _ if mix == "Q4_K_S" or mix.startswith("IQ4"):
                return GGMLType.Q5_K if index < n // 8 else base
        return base


def _more_bits(index: int, n: int) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    return index < n // 8 or index >= 7 * n // 8 or (index - n // 8) % 3 == 2


def note_of_rows(chosen: Recipe, types: Mapping[str, GGMLType], shapes: Mapping[str, Shape]) -> list[str]:
    """Sentence about matrices whose rows are not whole blocks of the recipe's format; none if all are."""
    matrices = [name for name, shape in shapes.items() if is_quantized(name, shape)]
    other = [name for name in matrices if shapes[name][-1] % chosen.base.block_size]
    if not other:
        return []
    names = ", ".join(sorted({types[name].name for name in other}))
    return [
        f"{len(other)} of {len(matrices)} matrices have rows that are not whole blocks of "
        f"{chosen.base.block_size} values, as {chosen.base.name} needs: they are written as {names}"
    ]


def note_of_source(name: str, form: str, n: int, n_tensors: int) -> list[str]:
    """Sentence about a source of whose tensors n are quantized already, in `form`; none if n is 0."""
    if not n:
        return []
    return [
        f"{name} is quantized already ({form}, {n} of {n_tensors} tensors): that loss is not counted, and a "
        "file made of the model before it was quantized is better"
    ]


def fitting(kind: GGMLType, cols: int) -> GGMLType:
    """The format, or for rows that are not whole blocks of it one that fits."""
    if cols % kind.block_size:
        kind = GGMLType[kind.smaller or "F16"]
    return kind if cols % kind.block_size == 0 else GGMLType.F16
