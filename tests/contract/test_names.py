"""Names in converted files: tensors and metadata keys are those of the gguf package for the architecture."""

from __future__ import annotations

import re

import pytest
from gguf import constants, get_tensor_name_map

from edgellm.families import FAMILIES, plan
from edgellm.families.checkpoint import CheckpointPlan
from edgellm.families.transforms import Copy
from tests.support.references import CHECKPOINTS_ONLY, OFFICIAL, checkpoint
from tests.support.variants import variants

ARCHITECTURES = {name: number for number, name in constants.MODEL_ARCH_NAMES.items()}
# Settings for which llama.cpp has no key.
OURS = {
    "attention.latent_norm_rms_epsilon",
    "attention.recurrent_layers",
    "rope.layers",
    "rope.scaling.yarn_truncate",
    "hidden_activation",
    "router_jitter_noise",
}
# Architectures that llama.cpp does not have, and those of its whose names they share.
OUR_ARCHITECTURES = {"bitnet-b1.58": ("bitnet",), "mpnet": ("bert",), "opt": ("gpt2", "bert")}
# Tensors of all families that the package does not list for each, dense parts between experts, and norms.
UNLISTED = {"rope_freqs", "rope_factors_long", "rope_factors_short", "output"}
UNLISTED |= {"blk.N.ffn_gate", "blk.N.ffn_up", "blk.N.ffn_down"}
UNLISTED |= {"blk.N.ffn_norm", "blk.N.attn_output_norm", "blk.N.layer_output_norm"}


def known_keys() -> set[str]:
    """Metadata keys of the package without the architecture."""
    found = set()
    for group in vars(constants.Keys).values():
        for value in vars(group).values() if isinstance(group, type) else ():
            if isinstance(value, str):
                found.add(value.removeprefix("{arch}."))
    return found


PACKAGE = known_keys()
KEYS = PACKAGE | OURS


def check(planned: CheckpointPlan) -> None:
    architecture = planned.architecture
    alike = OUR_ARCHITECTURES.get(architecture, (architecture,))
    listed = [kind for name in alike for kind in constants.MODEL_TENSORS[ARCHITECTURES[name]]]
    names = {constants.TENSOR_NAMES[kind].replace("{bid}", "N") for kind in listed} | UNLISTED
    for tensor in planned.tensors:
        part = re.sub(r"^blk\.\d+\.", "blk.N.", tensor.name)
        # A parameter alone has no ending; a bias may be all that a name has.
        plain = re.sub(r"\.(weight|bias|scale)$", "", part)
        assert plain in names or part in names, f"{architecture}: {tensor.name}"
    for key in planned.metadata:
        assert key.removeprefix(f"{architecture}.") in KEYS, key


@pytest.mark.parametrize("name", [*OFFICIAL, *CHECKPOINTS_ONLY])
def test_names_of_a_reference(name: str) -> None:
    config, source = checkpoint(name)
    check(plan(config, {key: array.shape for key, array in source.items()}))


def test_names_of_the_variants() -> None:
    for variant in variants().values():
        check(plan(variant.config, variant.shapes))


def test_names_are_those_that_the_package_maps_a_checkpoint_to() -> None:
    # Falcon-H1's names have an ending in all places but one.
    renamed = {"shared_mlp.output_linear.weight"}  # by its own rule, where a layer has no experts
    for variant in variants().values():
        planned = plan(variant.config, variant.shapes)
        if planned.architecture in OUR_ARCHITECTURES:
            continue
        names = get_tensor_name_map(ARCHITECTURES[planned.architecture], 64)
        for tensor in planned.tensors:
            source = tensor.sources[0] if len(tensor.sources) == 1 else ""
            if not source.endswith(".weight") or not isinstance(tensor.make, Copy):
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is not None and source.split(".", 3)[-1] not in renamed:
                assert tensor.name == name, f"{variant.name}: {source}"


def test_our_keys_are_ours() -> None:
    assert not OURS & PACKAGE


def test_every_architecture_is_one_of_the_package() -> None:
    assert set(FAMILIES) <= set(ARCHITECTURES) | set(OUR_ARCHITECTURES)
    assert not set(OUR_ARCHITECTURES) & set(ARCHITECTURES)
