"""BERT and RoBERTa encoders: learned positions, norms after each part, attention over the whole text.

A model that ranks texts reads a query and a text as two segments, and has a head over the first row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgellm.errors import UnsupportedError
from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.layers import Dense
from edgellm.families.source import Source
from edgellm.families.transforms import GroupRows
from edgellm.program import Builder, Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `bert`; its rows are embeddings, there are no logits."""
    b = source.builder("bert")
    x = b.add(blocks.embed(b), token_types(source, b))
    return layers(source, b, positioned(source, b, x), lambda i: blocks.heads(source, i, rope=None), PLAIN)


PLAIN = partial(blocks.mlp, activation="gelu")


def positioned(source: Source, b: Builder, x: str) -> str:
    """Embedded tokens and their learned positions."""
    return b.add(x, b.embed("position_embd.weight", source.n_ctx_train, source.width, source="position"))


def layers(
    source: Source,
    b: Builder,
    x: str,
    attention: Callable[[int], blocks.Attention],
    dense: Dense,
) -> Program:
    """Program of BERT's layers over embedded tokens x.

    attention: of a layer; here it sees the whole text. A layer with a tensor attn_norm_2 has a second norm
    after its attention, over the sum with what the layer read.
    """
    refuse_causal(source)
    norm = source.layer_norm
    x = blocks.norm(b, x, "token_embd_norm", norm)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.attention(b, x, blk, attention(i)._replace(causal=False))
        y = blocks.norm(b, b.add(x, y), f"{blk}.attn_output_norm", norm)
        if b.has(f"{blk}.attn_norm_2.weight"):
            y = blocks.norm(b, b.add(y, x), f"{blk}.attn_norm_2", norm)
        x = blocks.norm(b, b.add(y, dense(b, y, blk, source.n_ff[i])), f"{blk}.layer_output_norm", norm)
    return blocks.encoded(source, b, x)


def refuse_causal(source: Source) -> None:
    """Raise UnsupportedError for an encoder whose attention looks back only."""
    m = source.metadata
    if m.flag("attention.causal", False):
        raise UnsupportedError(f"metadata {m.key('attention.causal')!r} is true, expected false")


def token_types(source: Source, b: Builder) -> str:
    """Embedding of the token's segment: the second one of a pair of texts begins after a separator."""
    shape = source.tensors.get("token_types.weight", (1,))
    n_types = shape[0] if len(shape) == 2 else 1
    end = source.metadata.values.get(_SEPARATOR)
    if source.pooling == "rank" and n_types > 1 and type(end) is int and 0 <= end < source.n_vocab:
        return b.embed("token_types.weight", n_types, source.width, source="segment", separator=end)
    return b.embed("token_types.weight", n_types, source.width, source="first")


# The key is spelled like this.
_SEPARATOR = "tokenizer.ggml.seperator_token_id"
_LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a BERT or RoBERTa checkpoint."""
    c.only("hidden_act", "gelu")
    c.only("position_embedding_type", "absolute")
    out = standard.sizes(c) | standard.layer_norm(c, "layer_norm_eps")
    del out["attention.head_count_kv"]
    out["context_length"] = c.integer("max_position_embeddings") - _first_position(c)
    out["attention.causal"] = False
    if standard.ranks(c):
        out["pooling_type"] = 4
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    first, root = _first_position(c), "" if _is_bert(c) else "roberta."
    n_rows = c.integer("max_position_embeddings") - first
    p.add("token_embd.weight", f"{root}embeddings.word_embeddings.weight")
    positions = GroupRows(1, first, n_rows)
    p.add("position_embd.weight", f"{root}embeddings.position_embeddings.weight", make=positions)
    p.add("token_types.weight", f"{root}embeddings.token_type_embeddings.weight")
    p.layer("", f"{root}embeddings", {"token_embd_norm": "LayerNorm"})
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"{root}encoder.layer.{i}", _LAYER)
    if not standard.ranks(c):
        return p
    heads = {"cls": "pooler.dense", "cls.output": "classifier"}
    if not _is_bert(c):
        heads = {"cls": "classifier.dense", "cls.output": "classifier.out_proj"}
    for gguf, hf in heads.items():
        for kind in ("weight", "bias"):
            p.add(f"{gguf}.{kind}", f"{hf}.{kind}")
    return p


def _is_bert(c: Config) -> bool:
    return c.model_type == "bert"


def _first_position(c: Config) -> int:
    """Row of the position embedding for the first token: RoBERTa's follows the padding's."""
    return 0 if _is_bert(c) else c.integer("pad_token_id", minimum=0) + 1


def _architecture(c: Config) -> str | None:
    """Architecture of a model whose positions are biases of attention."""
    return "jina-bert-v2" if c.get("position_embedding_type") == "alibi" else None


_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
UNUSED = (r"(roberta\.)?pooler\..*", r"cls\..*", r"lm_head\..*", r"(roberta\.)?embeddings\.position_ids")
FAMILY = Family(
    build,
    Checkpoint(
        _TYPES,
        metadata,
        parts,
        ignored=UNUSED,
        defaults={name: {"pad_token_id": 1} for name in _TYPES[1:]},
        architecture=_architecture,
    ),
    f32=(r"(position_embd|token_types)\.weight", r"cls(\.output)?\.weight"),
)
