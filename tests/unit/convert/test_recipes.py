"""Recipes: the format of each tensor."""

from __future__ import annotations

import pytest

from edgellm.convert.recipes import RECIPES, choose_types, parse_override, recipe
from edgellm.errors import UsageError
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.quant.native import ENCODERS, n_bytes


def shapes(n_layers: int = 16, width: int = 512, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (1000, width), "output_norm.weight": (width,)}
    if not tied:
        found["output.weight"] = (1000, width)
    for i in range(n_layers):
        found |= {
            f"blk.{i}.attn_norm.weight": (width,),
            f"blk.{i}.attn_q.weight": (width, width),
            f"blk.{i}.attn_q.bias": (width,),
            f"blk.{i}.attn_k.weight": (width, width),
            f"blk.{i}.attn_v.weight": (width, width),
            f"blk.{i}.attn_output.weight": (width, width),
            f"blk.{i}.ffn_up.weight": (2 * width, width),
            f"blk.{i}.ffn_down.weight": (width, 2 * width),
        }
    return found


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("width", [512, 576, 40])
def test_every_tensor_gets_a_format_that_fits_and_can_be_written(name: str, width: int) -> None:
    given = shapes(width=width)
    types = choose_types(recipe(name), given)
    assert list(types) == list(given)
    for tensor, kind in types.items():
        assert kind in ENCODERS
        assert given[tensor][-1] % LAYOUTS[kind].block_size == 0
        if len(given[tensor]) == 1:
            assert kind == GGMLType.F32


def test_q4_k_m_is_llama_cpps() -> None:
    """Types of llama-quantize for 16 layers: six bits for the first and last two and every third."""
    types = choose_types(recipe("q4_k_m"), shapes())
    better = {i for i in range(16) if i < 2 or i >= 14 or (i - 2) % 3 == 2}
    for i in range(16):
        expected = GGMLType.Q6_K if i in better else GGMLType.Q4_K
        assert types[f"blk.{i}.attn_v.weight"] == types[f"blk.{i}.ffn_down.weight"] == expected
        assert types[f"blk.{i}.attn_q.weight"] == types[f"blk.{i}.ffn_up.weight"] == GGMLType.Q4_K
    assert types["output.weight"] == GGMLType.Q6_K
    assert types["token_embd.weight"] == GGMLType.Q4_K
    assert choose_types(recipe("Q4_K_M"), shapes(tied=True))["token_embd.weight"] == GGMLType.Q6_K


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Q2_K", "IQ4_NL"),
        ("Q3_K_M", "IQ4_NL"),
        ("IQ4_XS", "IQ4_NL"),
        ("Q4_K_S", "Q5_0"),
        ("Q5_K_S", "Q5_1"),
        ("Q6_K", "Q8_0"),
        ("Q4_0", "Q4_0"),
    ],
)
def test_rows_that_are_not_whole_blocks_get_smaller_ones(name: str, expected: str) -> None:
    types = choose_types(recipe(name), shapes(width=576))
    assert types["blk.5.attn_q.weight"].name == expected
    assert types["output.weight"] in (GGMLType.Q5_1, GGMLType.Q8_0)


def test_a_head_that_is_no_super_blocks_pays_for_the_body_within_its_bytes() -> None:
    given = shapes(width=576) | {"output.weight": (49152, 576)}
    types = choose_types(recipe("Q4_K_M"), given)
    before = choose_types(recipe("Q4_K_M"), given, overrides=[parse_override("output.weight=Q8_0")])
    assert before["output.weight"] == GGMLType.Q8_0
    assert types["output.weight"] == GGMLType.Q5_1
    assert types["blk.5.attn_v.weight"] == types["blk.5.ffn_down.weight"] == GGMLType.Q8_0
    assert before["blk.5.attn_v.weight"] == GGMLType.Q5_0
    sizes = [sum(n_bytes(kinds[name], given[name]) for name in given) for kinds in (types, before)]
    assert 0.96 * sizes[1] < sizes[0] <= sizes[1]
    # Formats of small blocks are taken as they are asked for.
    assert choose_types(recipe("Q4_0"), given)["output.weight"] == GGMLType.Q8_0


def test_experts_and_their_router() -> None:
    given = shapes(4) | {
        "blk.0.ffn_gate_inp.weight": (8, 512),
        "blk.0.ffn_down_exps.weight": (8, 512, 1024),
    }
    types = choose_types(recipe("MXFP4"), given, n_experts=8)
    assert types["blk.0.ffn_gate_inp.weight"] == GGMLType.F32
    assert types["blk.0.ffn_down_exps.weight"] == GGMLType.MXFP4
    assert types["blk.0.attn_q.weight"] == GGMLType.Q8_0
    assert choose_types(recipe("Q4_K_M"), given, n_experts=8)["blk.0.attn_k.weight"] == GGMLType.Q8_0


def test_fused_projections_are_treated_as_values() -> None:
    given = {name.replace("attn_v", "attn_qkv"): shape for name, shape in shapes().items()}
    fused, apart = choose_types(recipe("Q5_K_M"), given), choose_types(recipe("Q5_K_M"), shapes())
    for i in range(16):
        assert fused[f"blk.{i}.attn_qkv.weight"] == apart[f"blk.{i}.attn_v.weight"]


def test_overrides_win_in_order() -> None:
    rules = [parse_override("ffn_down=q5_k"), parse_override(r"^blk\.0\.=F16"), parse_override("embd=Q8_0")]
    rules.append(parse_override("norm=Q8_0"))
    types = choose_types(recipe("Q4_K_M"), shapes(), overrides=rules)
    assert types["blk.0.ffn_down.weight"] == GGMLType.Q5_K
    assert types["blk.0.attn_norm.weight"] == GGMLType.F16
    assert types["blk.1.attn_norm.weight"] == GGMLType.F32
    assert types["token_embd.weight"] == GGMLType.Q8_0


@pytest.mark.parametrize("text", ["ffn_down", "=Q4_K", "x=Q9_Z", "x=", "x=IQ1_S", "(=Q4_K", ""])
def test_overrides_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--tensor-type"):
        parse_override(text)


def test_an_override_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"attn_q\.weight has rows of 576 values, expected a multiple of 256"
    ):
        choose_types(recipe("Q8_0"), shapes(width=576), overrides=[parse_override("attn_q.weight=Q4_K")])


def test_unknown_types_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'Q4_K_XL' is not known, expected one of .*Q4_K_M"):
        recipe("Q4_K_XL")
