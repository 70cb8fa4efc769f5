"""Writes tests/data/encoders.npz; needs torch, transformers and tokenizers: `python -m tests.make_encoders`.

Each case is an encoder with drawn weights: the embeddings that transformers computes of 50 texts, or the
scores of 50 pairs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.support.encoders import DENSE, PATH, TEXTS, drawn

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


SPECIAL = {
    "wordpiece": {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    "unigram": {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    | {"bos_token": "<s>", "eos_token": "</s>"},
}


def main() -> None:
    """Write the file."""
    made = {"wordpiece": wordpiece(), "unigram": unigram()}
    arrays: dict[str, Any] = {}
    tokenizers: dict[str, Any] = {}
    cases = {}
    for seed, (name, (config, kind, pooling)) in enumerate(CASES.items()):
        config = config | {"vocab_size": made[kind].get_vocab_size()}
        fast = PreTrainedTokenizerFast(tokenizer_object=made[kind], **SPECIAL[kind])
        tokenizers[kind] = json.loads(fast.backend_tokenizer.to_str())
        if kind == "wordpiece":
            fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(config))
            parsed = AutoConfig.from_pretrained(folder)
            model_class = AutoModelForSequenceClassification if pooling == "rank" else AutoModel
            model_class.from_config(parsed).save_pretrained(folder)
            path = Path(folder, "model.safetensors")
            with safe_open(path, "np") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            save_file(drawn(shapes, seed), path, metadata={"format": "pt"})
            saved = json.loads(Path(folder, "config.json").read_text())
            model = model_class.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        found = []
        for i, text in enumerate(TEXTS):
            pair = (text, TEXTS[(i * 7 + 3) % len(TEXTS)]) if pooling == "rank" else (text,)
            given = fast(*pair, return_tensors="pt", return_token_type_ids=kind == "wordpiece")
            if config["model_type"] in ("gemma3_text", "modernbert"):
                given.pop("token_type_ids", None)
            with torch.no_grad():
                out = model(**given)
            if pooling == "rank":
                found.append(torch.sigmoid(out.logits[0]).numpy())
                continue
            rows = out.last_hidden_state[0].numpy().astype(np.float64)
            vector = rows[0] if pooling == "cls" else rows.mean(axis=0)
            if config["model_type"] == "gemma3_text":
                for weight in drawn(DENSE, 99).values():
                    vector = weight.astype(np.float64) @ vector
            found.append(vector / np.linalg.norm(vector))
        arrays[name] = np.asarray(found, np.float32)
        cases[name] = {"config": config, "saved": saved, "shapes": shapes, "tokenizer": kind, "seed": seed}
        cases[name]["pooling"] = pooling
        print(name, arrays[name].std())
    text = json.dumps({"cases": cases, "tokenizers": tokenizers, "special": SPECIAL}, ensure_ascii=False)
    np.savez_compressed(PATH, cases=np.frombuffer(text.encode(), np.uint8), **arrays)


if __name__ == "__main__":
    main()
