"""Blocks of multi-token prediction, which follow a model's own layers.

A file keeps them, and the program does not run them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgellm.families.checkpoint import Parts
from edgellm.families.config import Config
from edgellm.families.transforms import AddOne

_MAX_BLOCKS = 64
# Some checkpoints repeat the embedding and the head of the model in each block.
_REPEATED = {"embed_tokens": "embed_tokens", "shared_head_head": "shared_head.head"}
_OWN = {"eh_proj": "eh_proj", "enorm": "enorm", "hnorm": "hnorm", "shared_head_norm": "shared_head.norm"}
_QWEN = {
    "eh_proj": "fc",
    "enorm": "pre_fc_norm_embedding",
    "hnorm": "pre_fc_norm_hidden",
    "shared_head_norm": "norm",
}


def count(names: Iterable[str]) -> int:
    """Number of such blocks among a file's tensors."""
    return len({name.split(".")[1] for name in names if ".nextn." in name})


def numbered(p: Parts, c: Config, layer: Callable[[Parts, int], None]) -> None:
    """Add the blocks that a checkpoint numbers as further layers; `layer` adds the parts of a usual one."""
    more = Parts()
    n_blocks = c.integer("num_nextn_predict_layers", default=0, minimum=0, maximum=_MAX_BLOCKS)
    for i in range(c.n_layers, c.n_layers + n_blocks):
        layer(more, i)
        for gguf, hf in (_OWN | _REPEATED).items():
            name, source = f"blk.{i}.nextn.{gguf}.weight", f"model.layers.{i}.{hf}.weight"
            more.add(name, source, optional=gguf in _REPEATED)
    p.more = more.items


def separate(p: Parts, c: Config, layer: Callable[[Parts, int, str], None]) -> None:
    """Add the blocks that a checkpoint names `mtp`; norms gain 1, as those of the model do.

    layer: adds the parts of a layer with full attention, from the tensors under the name given to it.
    """
    more = Parts()
    n_blocks = c.integer(
        "mtp_num_hidden_layers", "num_nextn_predict_layers", default=1, minimum=0, maximum=_MAX_BLOCKS
    )
    for i in range(n_blocks):
        layer(more, c.n_layers + i, f"mtp.layers.{i}")
    if n_blocks:
        makes = {gguf: AddOne() for gguf in _QWEN if gguf != "eh_proj"}
        more.layer(f"blk.{c.n_layers}.nextn", "mtp", _QWEN, makes)
    p.more = more.items
