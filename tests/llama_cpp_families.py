"""Greedy tokens of variants in llama.cpp and here: `python -m tests.llama_cpp_families [VARIANT...]`.

Needs llama-cpp-python. Prints a line for each variant, with the reason of a known difference, and counts.
Each runs in a process of its own, because llama.cpp ends the process at what it does not expect.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import Pair, write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from tests.support.variants import Variant, variants, write_variant

GREEDY = GenerateOptions(temperature=0.0, max_tokens=12, ignore_eos=True, repeat_penalty=1.0)


class Otherwise(NamedTuple):
    """Variants that llama.cpp reads otherwise than transformers, whose logits the files of ours give.

    names: patterns. read: metadata without the architecture, None for no such key, with which the tokens here
    are llama.cpp's: they prove the reason.
    """

    reason: str
    names: str
    read: Mapping[str, Any] = MappingProxyType({})


_WINDOW = {"attention.sliding_window": None, "attention.sliding_window_pattern": None}
_BETAS = {"rope.scaling.yarn_beta_fast": None, "rope.scaling.yarn_beta_slow": None}
REFUSED = (
    Otherwise("has no such architecture", "bitnet-* opt-* opt_narrow-*"),
    Otherwise(
        "loads no factors of Llama 3's rotation for the architecture",
        "cohere2-llama3 ernie4_5-llama3 falcon-llama3 gemma2-llama3 glm4-llama3 gpt_neox-llama3 "
        "gpt_oss-llama3 hunyuan-llama3 lfm2-llama3 olmo2-llama3 phi-llama3 qwen2-llama3 qwen2_moe-llama3 "
        "qwen3-llama3 qwen3_5-llama3 qwen3_moe-llama3 qwen3_next-llama3 seed_oss-llama3 smollm3-llama3 "
        "stablelm-llama3 starcoder2-llama3",
    ),
    Otherwise(
        "takes a head's width from the rows' width",
        "lfm2-wide_heads olmo2-wide_heads phi3-wide_heads qwen2-wide_heads starcoder2-wide_heads",
    ),
    Otherwise(
        "has no place for biases",
        "arcee-biases ernie4_5_moe-alone hunyuan-biases hunyuan_moe-listed nemotron_h-biases qwen3-biases",
    ),
    Otherwise("requires biases", "lfm2_moe-raw mamba2-groups phimoe-window"),
    Otherwise(
        "expects experts in each layer after the first dense ones",
        "ernie4_5_moe-interval qwen2_moe-sparse qwen3_moe-sparse qwen3_next-sparse",
    ),
    Otherwise(
        "requires a low-rank query, but for the published numbers of layers",
        "deepseek_v2-groups deepseek_v2-plain deepseek_v2-yarn glm4_moe_lite-full_query",
    ),
    Otherwise("expects key norms as wide as the queries'", "olmoe-*"),
    Otherwise("expects delta layers' keys as wide as their values", "qwen3_next-heads"),
    Otherwise("requires a head of its own", "apertus-llama3"),
    Otherwise("has no ALiBi in Falcon", "falcon_rw-small"),
)
DIFFERENT = (
    Otherwise(
        "has no windows for this number of layers, and ignores YaRN's beta_fast and beta_slow",
        "exaone4-yarn",
        _WINDOW | _BETAS,
    ),
    Otherwise(
        "ignores YaRN's beta_fast and beta_slow for the architecture",
        "cohere2-yarn ernie4_5-yarn ernie4_5_moe-yarn gemma2-yarn glm4-yarn glm4_moe-yarn hunyuan-yarn "
        "gpt_neox-yarn granite-yarn lfm2-yarn llama-yarn olmo2-yarn olmo3-yarn qwen2-yarn qwen3-yarn "
        "qwen3_moe-yarn qwen3_5-yarn qwen3_next-yarn smollm3-yarn stablelm-yarn starcoder2-yarn",
        _BETAS,
    ),
    Otherwise(
        "truncates YaRN's correction range whatever the config says",
        "gemma2-yarn_factor gpt_oss-all_local gpt_oss-yarn_factor mistral-yarn_factor",
        {"rope.scaling.yarn_truncate": True},
    ),
    Otherwise(
        "has no windows for the architecture, or not for this number of layers",
        "exaone4-* mistral-window mixtral-one_expert phi3-partial qwen2-window qwen2_moe-window qwen3-window "
        "qwen3_moe-window starcoder2-window",
        _WINDOW,
    ),
    Otherwise(
        "leaves each fourth layer without rotation, and has no windows",
        "smollm3-interval smollm3-window",
        _WINDOW | {"rope.layers": None},
    ),
    Otherwise("scales attention by the width of a head", "gemma3-capped", {"attention.scale": None}),
    Otherwise(
        "does not rotate pairs past the interleaved sections",
        "qwen3_vl-small qwen3_vl_moe-small",
        {"rope.dimension_sections": [6, 5, 5, 0]},
    ),
    Otherwise("has RMS norms and a plain softmax over experts in Phi MoE", "phimoe-*"),
    Otherwise("loads factors of Llama 3's rotation, and does not use them", "falcon_h1-llama3"),
    Otherwise("has no ALiBi in Falcon", "falcon_rw-parallel"),
)


def otherwise(name: str, listed: tuple[Otherwise, ...]) -> Otherwise | None:
    """The entry that names the variant."""
    return next(
        (entry for entry in listed if any(fnmatchcase(name, pattern) for pattern in entry.names.split())),
        None,
    )


def exact_attention() -> None:
    """Let llama.cpp's contexts compute attention in 32 bits: its fast way rounds queries to 16."""
    import llama_cpp

    usual = llama_cpp.llama_context_default_params

    def exact() -> Any:
        parameters = usual()
        parameters.flash_attn_type = 0
        return parameters

    if usual.__name__ != "exact":
        llama_cpp.llama_context_default_params = exact


def answers(variant: Variant, read: Mapping[str, Any] = MappingProxyType({})) -> dict[str, list[int]]:
    """Greedy tokens by backend; read: changes of the file's metadata, as in Otherwise."""
    exact_attention()
    prompt = np.random.default_rng(3).integers(3, 260, 24).tolist()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(write_variant(variant, Path(folder, "checkpoint")))
        path = Path(folder, "model.gguf")
        plan = plan_conversion(checkpoint, recipe("F32"), threads=1)
        architecture = plan.metadata["general.architecture"].value
        for key, value in read.items():
            plan.metadata.pop(f"{architecture}.{key}", None)
            if value is not None:
                plan.metadata[f"{architecture}.{key}"] = Pair(value)
        write(plan, path, threads=1)
        for backend in ("native", "llama_cpp"):
            options = LoadOptions(threads=1, context=64, kv_type="f32", backend=backend)
            with Model.load(path, options) as model:
                generation = model.generate(prompt, GREEDY)
                list(generation)
                found[backend] = generation.ids
    return found


def _run(name: str, *arguments: str) -> tuple[dict[str, list[int]] | None, str]:
    """Answers from a process of its own, or None and its last words."""
    command = [sys.executable, "-m", "tests.llama_cpp_families", "--one", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        return json.loads(last), ""
    except ValueError:
        return None, (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def _line(name: str) -> tuple[str, str, bool]:
    """Result of a variant, its details, and True if it is the same or for a known reason not."""
    found, words = _run(name)
    if found is None:
        known = otherwise(name, REFUSED)
        return "refused", known.reason if known else words[:120], known is not None
    if found["native"] == found["llama_cpp"]:
        return "same", "", otherwise(name, REFUSED) is None
    pairs = zip(found["native"], found["llama_cpp"], strict=True)
    n_same = next(i for i, (a, b) in enumerate(pairs) if a != b)
    known = otherwise(name, DIFFERENT)
    if known is None:
        return "differs", f"after {n_same} tokens", False
    if not known.read:
        return "differs", known.reason, True
    found, words = _run(name, json.dumps(dict(known.read)))
    proven = found is not None and found["native"] == found["llama_cpp"]
    return "differs", known.reason + ("" if proven else f", and otherwise {words[:80]}"), proven


def main(names: list[str]) -> int:
    """Print the table; 1 if a variant differs for no known reason."""
    counts: Counter[tuple[str, str]] = Counter()
    failed = False
    for name in names or list(variants()):
        result, details, known = _line(name)
        print(f"{name:<32} {result:<9} {details}{'' if known else '  (unexpected)'}".rstrip(), flush=True)
        counts[result, details] += 1
        failed |= not known
    print()
    for (result, details), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{count:>4}  {result:<9} {details}".rstrip())
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print("\n" + json.dumps(answers(variants()[sys.argv[2]], json.loads((sys.argv[3:] or ["{}"])[0]))))
    else:
        sys.exit(main(sys.argv[1:]))
