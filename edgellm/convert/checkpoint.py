"""A checkpoint as a folder from the Hub holds it: config, weights in safetensors, tokenizer files.

Nothing outside the folder is read, and nothing in it is executed: pickle files are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgellm.convert.folder import Folder
from edgellm.convert.quantized import Quantization
from edgellm.convert.safetensors import SafetensorsFile
from edgellm.convert.tensors import Tensors
from edgellm.errors import FileError, FormatError, ModelError, UnsupportedError
from edgellm.families.checkpoint import canonical

__all__ = ["Checkpoint", "Folder", "Tensors"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "embeddings.weight")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Checkpoint(Folder):
    """A checkpoint folder: its config, its tokenizer's files, its weights.

    Raises FileError for what is not there, FormatError for what is damaged, UnsupportedError for pickles.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = self.json("config.json")
        if self.config is None:
            self._refuse_without_config()
        try:
            self.tensors = Tensors(
                self._shards(),
                Quantization.of(self.config, self.json("quantize_config.json")),
                self._modules(),
            )
        except (UnsupportedError, ModelError) as error:
            message = str(error)
            raise type(error)(
                message if message.startswith(str(folder)) else f"{folder}: {message}"
            ) from None

    def _modules(self) -> dict[str, Path]:
        """Weights of sentence-transformers' modules over embeddings, such as 2_Dense, by prefix."""
        found = sorted(self.folder.glob("[0-9]_Dense/model.safetensors"))
        return {f"{path.parent.name}.": path for path in found}

    def planned_config(self) -> dict[str, Any]:
        """config.json with a flag for tied embeddings that says what the tensors do, as in transformers 5.

        A head of its own counts, whatever the flag; one that is missing is the embedding if any flag says so,
        and in embedding models, which were saved without a head and use none.
        """
        nested = self.config.get("text_config")
        texts = nested if isinstance(nested, Mapping) else {}
        flags = [values.get("tie_word_embeddings") for values in (self.config, texts)]
        names = {canonical(name): name for name in self.tensors.shapes}
        head = names.get("lm_head.weight", names.get("embed_out.weight"))
        embedding = next((names[name] for name in names if name.endswith(_EMBEDDINGS)), None)
        if embedding is None or not (True in flags or (head is None and self._is_headless())):
            return dict(self.config)
        tied = head is None or self.tensors.equal(head, embedding)
        own = {"tie_word_embeddings": tied}
        return {**self.config, **own} | ({"text_config": {**texts, **own}} if texts else {})

    def _is_headless(self) -> bool:
        """True for a model that was saved alone, as the class `...Model` or by sentence-transformers."""
        names = self.config.get("architectures")
        alone = isinstance(names, list) and any(str(name).endswith("Model") for name in names)
        return alone or (self.folder / "modules.json").is_file()

    def _refuse_without_config(self) -> NoReturn:
        if (self.folder / "params.json").is_file():
            raise UnsupportedError(
                f"{self.folder}: params.json instead of config.json, a checkpoint in its maker's own form; "
                "expected the form of transformers: take the revision or repository that has config.json"
            )
        raise FileError(
            f"{self.folder}: config.json is missing, expected the folder of a Hub checkpoint; check the path"
        )

    def _shards(self) -> list[Path]:
        index = self.json(_INDEX)
        if index is None:
            return [self._shard(self._single())]
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{self.folder / _INDEX}: 'weight_map' is missing, expected names and files")
        shards = []
        for shard in sorted(set(map(str, weight_map.values()))):
            path = self._shard(shard)
            entries = SafetensorsFile(path).entries
            missing = next(
                (name for name, to in weight_map.items() if to == shard and name not in entries), None
            )
            if missing is not None:
                raise FormatError(
                    f"{path}: tensor {missing[:80]!r} is missing, expected as {_INDEX} says; "
                    "download it again"
                )
            shards.append(path)
        return shards

    def _single(self) -> str:
        if (self.folder / _SINGLE).exists():
            return _SINGLE
        others = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if len(others) == 1:
            return others[0]
        pickles = sorted(path.name for pattern in _PICKLES for path in self.folder.glob(pattern))
        if pickles:
            raise UnsupportedError(
                f"{self.folder / pickles[0]}: a pickle file, which can run any code when it is read; "
                "expected "
                "safetensors: take a revision of the model that has them"
            )
        found = f"{len(others)} files and no index" if others else "none"
        raise FileError(f"{self.folder}: expected {_SINGLE} or {_INDEX}, found {found}; download it again")

    def _shard(self, name: str) -> Path:
        index, shown = self.folder / _INDEX, f"{name[:80]!r}"
        if name != Path(name).name or name in ("", ".", ".."):
            raise FormatError(
                f"{index}: names the file {shown}, expected one in the same folder; "
                "do not use this checkpoint"
            )
        if not name.endswith(".safetensors"):
            raise UnsupportedError(
                f"{index}: names the file {shown}, expected safetensors; "
                "take a revision of the model that has them"
            )
        path = self.folder / name
        if not os.path.isfile(path):  # False for names that no file system takes, too
            raise FileError(
                f"{index}: the file {shown} is missing, expected a part of the weights; download it again"
            )
        return path
