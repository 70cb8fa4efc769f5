"""Adds to tests/data/encoders.npz the cases that it lacks; needs torch, transformers and tokenizers.

Each case is a model with drawn weights: the embeddings that transformers computes of 50 texts, or the scores
of 50 pairs. `python -m tests.make_encoders`; the names of cases make them anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.support.encoders import DENSE, PATH, PROMPTS, TEXTS, drawn

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
}
BERT = BASE | {"model_type": "bert", "pad_token_id": 0, "layer_norm_eps": 1e-12}
ROBERTA = BASE | {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}
ROBERTA |= {"type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}
RANKS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 16,
    "max_position_embeddings": 512,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "use_bidirectional_attention": True,
}
MODERN = BASE | {"model_type": "modernbert", "local_attention": 16, "pad_token_id": 0, "num_hidden_layers": 4}
MODERN |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
NOMIC = BASE | {"model_type": "nomic_bert", "pad_token_id": 0, "hidden_act": "silu"}
MPNET = BASE | {"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}
MPNET |= {"bos_token_id": 0, "eos_token_id": 2, "relative_attention_num_buckets": 32}
QWEN3 = BASE | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6}
QWEN3 |= {"rope_theta": 1000000.0, "tie_word_embeddings": True, "eos_token_id": 0}
# The keys of nomic-embed-text-v2-moe.
NOMIC_MOE: dict[str, Any] = {
    "model_type": "nomic_bert",
    "n_embd": 64,
    "n_head": 4,
    "n_inner": 96,
    "n_layer": 4,
    "n_positions": 512,
    "max_trained_positions": 512,
    "type_vocab_size": 1,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu",
    "prenorm": False,
    "qkv_proj_bias": True,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "rotary_emb_base": 10000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "num_experts": 4,
    "moe_top_k": 2,
    "moe_every_n_layers": 2,
    "moe_normalize_expert_weights": False,
    "expert_choice_router": False,
    "num_shared_experts": 0,
    "pad_token_id": 1,
}
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "bert-mean": (BERT, "wordpiece", "mean"),
    "bert-rank": (BERT | RANKS | {"architectures": ["BertForSequenceClassification"]}, "wordpiece", "rank"),
    "roberta-cls": (ROBERTA, "unigram", "cls"),
    "roberta-rank": (
        ROBERTA | RANKS | {"architectures": ["XLMRobertaForSequenceClassification"]},
        "unigram",
        "rank",
    ),
    "gemma-dense": (GEMMA, "wordpiece", "mean"),
    "modern-cls": (MODERN, "wordpiece", "cls"),
    "nomic-mean": (NOMIC, "wordpiece", "mean"),
    **{
        f"modern-rank-{pooling}": (
            MODERN
            | RANKS
            | {"architectures": ["ModernBertForSequenceClassification"], "classifier_pooling": pooling},
            "wordpiece",
            "rank",
        )
        for pooling in ("mean", "cls")
    },
    "nomic-moe": (NOMIC_MOE, "unigram", "mean"),
    "qwen3-last": (QWEN3, "bytes", "lasttoken"),
    "mpnet-mean": (MPNET, "mpnet", "mean"),
    "mpnet-rank": (MPNET | RANKS | {"architectures": ["MPNetForSequenceClassification"]}, "mpnet", "rank"),
}


def wordpiece() -> Tokenizer:
    """A small tokenizer of BERT's kind."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def unigram() -> Tokenizer:
    """A small tokenizer of XLM-RoBERTa's kind."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=420, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    # Scores as SentencePiece has them: in float32.
    written = json.loads(tokenizer.to_str())
    written["model"]["vocab"] = [
        [piece, float(np.float32(score))] for piece, score in written["model"]["vocab"]
    ]
    return Tokenizer.from_str(json.dumps(written))


def mpnet() -> Tokenizer:
    """A small tokenizer of MPNet's kind: BERT's words with RoBERTa's special tokens."""
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return tokenizer


def in_bytes() -> Tokenizer:
    """A small tokenizer of Qwen3's kind, which ends a text as Qwen3-Embedding's does."""
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>",
        pair="$A <|endoftext|> $B <|endoftext|>",
        special_tokens=[("<|endoftext|>", 0)],
    )
    return tokenizer


MAKERS = {"wordpiece": wordpiece, "unigram": unigram, "mpnet": mpnet, "bytes": in_bytes}
SPECIAL = {
    "wordpiece": {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    "unigram": {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    | {"bos_token": "<s>", "eos_token": "</s>"},
    "mpnet": {"unk_token": "[UNK]", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    | {"bos_token": "<s>", "eos_token": "</s>"},
    "bytes": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}


class Router(torch.nn.Module):  # type: ignore[misc]
    """The router of nomic-embed-text-v2-moe."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(config["n_embd"], config["num_experts"], bias=False)


class Experts(torch.nn.Module):  # type: ignore[misc]
    """Its experts: stacked matrices, and one bias."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        rows = config["num_experts"] * config["n_inner"]
        self.mlp = torch.nn.ParameterDict(
            {name: torch.nn.Parameter(torch.empty(rows, config["n_embd"])) for name in ("w1", "w2")}
        )
        self.bias = torch.nn.Parameter(torch.empty(config["n_embd"]))


class NomicFeedForward(torch.nn.Module):  # type: ignore[misc]
    """A feed-forward part of nomic-embed-text-v2-moe, with experts in each second layer."""

    def __init__(self, config: dict[str, Any], layer: int) -> None:
        super().__init__()
        self.config = config
        self.moe = layer % config["moe_every_n_layers"] == 1
        if self.moe:
            self.router, self.experts = Router(config), Experts(config)
        else:
            self.fc1 = torch.nn.Linear(config["n_embd"], config["n_inner"])
            self.fc2 = torch.nn.Linear(config["n_inner"], config["n_embd"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (n_tokens, width)."""
        if not self.moe:
            return self.fc2(torch.nn.functional.gelu(self.fc1(x)))
        n_experts = self.config["num_experts"]
        w1, w2 = (self.experts.mlp[name].view(n_experts, -1, x.shape[-1]) for name in ("w1", "w2"))
        shares, chosen = self.router.layer(x).softmax(-1).topk(self.config["moe_top_k"])
        rows = []
        for row, share, which in zip(x, shares, chosen, strict=True):
            inner = torch.nn.functional.gelu(torch.einsum("efw,w->ef", w1[which], row))
            rows.append((share[:, None] * torch.einsum("ef,efw->ew", inner, w2[which])).sum(0))
        return torch.stack(rows) + self.experts.bias


class NomicLayer(torch.nn.Module):  # type: ignore[misc]
    """A layer of nomic-embed-text-v2-moe under the names of its checkpoint."""

    def __init__(self, config: dict[str, Any], layer: int) -> None:
        super().__init__()
        width = config["n_embd"]
        self.n_heads, self.base = config["n_head"], config["rotary_emb_base"]
        self.attn = torch.nn.ModuleDict(
            {"Wqkv": torch.nn.Linear(width, 3 * width), "out_proj": torch.nn.Linear(width, width)}
        )
        self.mlp = NomicFeedForward(config, layer)
        self.norm1, self.norm2 = (
            torch.nn.LayerNorm(width, eps=config["layer_norm_epsilon"]) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (n_tokens, width)."""
        q, k, v = self.attn["Wqkv"](x).view(len(x), 3, self.n_heads, -1).permute(1, 2, 0, 3)
        half = q.shape[-1] // 2
        angles = torch.arange(len(x))[:, None] * self.base ** -(torch.arange(half) / half)
        cos, sin = angles.cos(), angles.sin()

        def rotated(rows: torch.Tensor) -> torch.Tensor:
            a, b = rows[..., :half], rows[..., half:]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        y = torch.nn.functional.scaled_dot_product_attention(rotated(q), rotated(k), v)
        x = self.norm1(x + self.attn["out_proj"](y.transpose(0, 1).reshape(len(x), -1)))
        return self.norm2(x + self.mlp(x))


class NomicMoe(torch.nn.Module):  # type: ignore[misc]
    """nomic-embed-text-v2-moe by its description, because transformers has none of its experts."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["n_embd"]
        self.embeddings = torch.nn.ModuleDict(
            {
                "word_embeddings": torch.nn.Embedding(config["vocab_size"], width),
                "token_type_embeddings": torch.nn.Embedding(config["type_vocab_size"], width),
            }
        )
        self.emb_ln = torch.nn.LayerNorm(width, eps=config["layer_norm_epsilon"])
        layers = [NomicLayer(config, i) for i in range(config["n_layer"])]
        self.encoder = torch.nn.ModuleDict({"layers": torch.nn.ModuleList(layers)})

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        """Rows (1, n_tokens, width)."""
        x = (
            self.embeddings["word_embeddings"](input_ids[0])
            + self.embeddings["token_type_embeddings"].weight[0]
        )
        x = self.emb_ln(x)
        for layer in self.encoder["layers"]:
            x = layer(x)
        return SimpleNamespace(last_hidden_state=x[None])


def made(config: dict[str, Any], pooling: str, seed: int, folder: str) -> tuple[Any, dict[str, Any], Any]:
    """The model with drawn weights, its config as transformers saves it, and the shapes of its weights."""
    if "moe_top_k" in config:
        model = NomicMoe(config)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        weights = {name: torch.from_numpy(value) for name, value in drawn(shapes, seed).items()}
        model.load_state_dict(weights)
        return model, config, shapes
    Path(folder, "config.json").write_text(json.dumps(config))
    parsed = AutoConfig.from_pretrained(folder)
    model_class = AutoModelForSequenceClassification if pooling == "rank" else AutoModel
    model_class.from_config(parsed).save_pretrained(folder)
    path = Path(folder, "model.safetensors")
    with safe_open(path, "np") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    save_file(drawn(shapes, seed), path, metadata={"format": "pt"})
    saved = json.loads(Path(folder, "config.json").read_text())
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), saved, shapes


def results(model: Any, fast: Any, config: dict[str, Any], pooling: str, prompt: str = "") -> Any:
    """Embeddings of the texts, each after the prompt, or scores of the pairs."""
    found = []
    for i, text in enumerate(TEXTS):
        pair = (text, TEXTS[(i * 7 + 3) % len(TEXTS)]) if pooling == "rank" else (prompt + text,)
        given = fast(*pair, return_tensors="pt")
        if config["model_type"] not in ("bert", "nomic_bert"):
            given.pop("token_type_ids", None)
        with torch.no_grad():
            out = model(**given)
        if pooling == "rank":
            found.append(torch.sigmoid(out.logits[0]).numpy())
            continue
        rows = out.last_hidden_state[0].numpy().astype(np.float64)
        vector = {"cls": rows[0], "mean": rows.mean(axis=0), "lasttoken": rows[-1]}[pooling]
        if config["model_type"] == "gemma3_text":
            for weight in drawn(DENSE, 99).values():
                vector = weight.astype(np.float64) @ vector
        found.append(vector / np.linalg.norm(vector))
    return np.asarray(found, np.float32)


def main(anew: list[str]) -> None:
    """Write the file."""
    with np.load(PATH) as kept:
        arrays = {name: kept[name] for name in kept.files if name != "cases"}
        stored = json.loads(kept["cases"].tobytes())
    cases, tokenizers = stored["cases"], stored["tokenizers"]
    for seed, (name, (config, kind, pooling)) in enumerate(CASES.items()):
        if name in cases and name not in anew:
            continue
        if kind not in tokenizers:
            tokenizers[kind] = json.loads(MAKERS[kind]().to_str())
        tokenizer = Tokenizer.from_str(json.dumps(tokenizers[kind]))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL[kind])
        if kind == "wordpiece":
            fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        config = config | {"vocab_size": tokenizer.get_vocab_size()}
        with tempfile.TemporaryDirectory() as folder:
            model, saved, shapes = made(config, pooling, seed, folder)
        arrays[name] = results(model, fast, config, pooling)
        if pooling == "lasttoken":
            arrays[f"{name}/query"] = results(model, fast, config, pooling, PROMPTS["query"])
        cases[name] = {"config": config, "saved": saved, "shapes": shapes, "tokenizer": kind, "seed": seed}
        cases[name]["pooling"] = pooling
        print(name, arrays[name].std())
    content = {"cases": cases, "tokenizers": tokenizers, "special": SPECIAL}
    text = json.dumps(content, ensure_ascii=False)
    np.savez_compressed(PATH, cases=np.frombuffer(text.encode(), np.uint8), **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
