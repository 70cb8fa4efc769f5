"""Models in ONNX form: logits of the reference families, 4-bit weights, forks and truncations, refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgellm
from edgellm import GenerateOptions, Model
from edgellm.cli import main
from edgellm.convert.onnx_arrays import MICROSOFT, Arrays
from edgellm.convert.onnx_folder import plan_folder
from edgellm.convert.receipt import source_weights
from edgellm.convert.recipes import recipe
from edgellm.convert.requantize import plan_requantization
from edgellm.errors import BackendError, FileError, UsageError
from edgellm.gguf.reader import GGUFFile
from edgellm.program.exported import DATA_FILE, MODEL_FILE
from edgellm.program.interpreter import Interpreter
from edgellm.quant import nbits
from tests.support.paths import shared
from tests.support.references import OFFICIAL, official_gguf, reference, unpacked

pytest.importorskip("edgellm._native", reason="needs the built extension module")
onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")

__all__ = ["unpacked"]

# Chosen for: rotation of neighbouring pairs; Llama 3's factors; a sliding window; biases; normalized heads;
# layers without rotation; one matrix for query, key and value; caps, and gelu.
FAMILIES = (
    *("llama", "llama2", "llama3", "mistral", "mistral_swa"),
    *("qwen2", "qwen3", "smollm3", "phi3", "gemma2"),
)
GREEDY = GenerateOptions(temperature=0.0, max_tokens=12, ignore_eos=True, repeat_penalty=1.0)

Export = Callable[[str, str], Path]


def source(name: str, folder: Path) -> Path:
    return official_gguf(name, folder) if name in OFFICIAL else shared(f"references/{name}")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, unpacked: Path) -> Export:
    """Convert a case to a type, once: its GGUF file, or its checkpoint if there is none."""
    folders: dict[tuple[str, str], Path] = {}

    def convert(name: str, kind: str) -> Path:
        if (name, kind) not in folders:
            folder = tmp_path_factory.mktemp("onnx") / name
            arguments = [str(source(name, unpacked)), str(folder), "--type", kind, "--no-receipt"]
            assert main(["convert", "--format", "onnx", *arguments]) == 0
            folders[name, kind] = folder
        return folders[name, kind]

    return convert


def load(folder: Path, *, cache_tokens: int | None = None, batch: int = 16) -> Model:
    return edgellm.load(folder, context=128, cache_tokens=cache_tokens, threads=1, batch=batch)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_match_the_reference(name: str, export: Export) -> None:
    expected = reference(name)
    for batch in (128, 7):
        with load(export(name, "F32"), batch=batch) as model:
            expected.check(model.logits(expected.token_ids.tolist()), 0.001)


def decoded(path: Path, folder: Path) -> tuple[Interpreter, Counter[str]]:
    """A GGUF file's program on the weights of a folder, and how many of these have each format."""
    with GGUFFile.open(path) as file:
        plan = plan_requantization(file, recipe("F32"), threads=1)
        planned = plan_folder(plan, "INT4")
        weights = dict(source_weights(plan))
    data = np.fromfile(folder / DATA_FILE, np.uint8)
    counts: Counter[str] = Counter()
    for weight in planned.graph.weights:
        assert weight.kind is not None
        counts[weight.kind.name] += 1
        types = [*[np.uint8] * weight.kind.n_parts, np.int8, np.float16]
        *parts, roots, units = (
            data[blob.offset : blob.offset + blob.n_bytes].view(kind).reshape(blob.shape)
            for blob, kind in zip(weight.blobs, types, strict=True)
        )
        weights[weight.name] = nbits.decode(weight.kind, nbits.Encoded(parts, roots, units, 0.0, 0.0))
    return Interpreter(planned.program, weights), counts


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_int4_computes_with_the_weights_that_it_stores(name: str, export: Export, unpacked: Path) -> None:
    ids = reference(name).token_ids.tolist()
    folder = export(name, "INT4")
    interpreter, counts = decoded(source(name, unpacked), folder)
    assert counts["int4"] >= 8
    assert counts["int5"] >= 7
    expected = interpreter.logits(ids)
    with load(folder) as model:
        found = model.logits(ids)
    # Rows that are multiplied with 4-bit weights are rounded to 8 bits, block by block. Random weights leave
    # the largest logits close to each other.
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.03
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize("name", ["int4", "int5", "int6", "int8"])
@pytest.mark.parametrize("optimized", [True, False])
def test_graphs_unpack_codes_and_scales(name: str, optimized: bool, tmp_path: Path) -> None:
    """Products and gathered rows of ONNX Runtime, with constants computed at load and without."""
    kind, rng = nbits.KINDS[name], np.random.default_rng(5)
    values = (0.05 * rng.standard_normal((96, 256))).astype(np.float32)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    encoded = nbits.encode(kind, values, threads=1)
    arrays = Arrays(onnx, "data")
    weight = arrays.matrix("w", kind, values.shape)
    data = np.zeros(arrays.end, np.uint8)
    stored: tuple[NDArray[Any], ...] = (*encoded.parts, encoded.roots, encoded.units)
    for blob, array in zip(weight.blobs, stored, strict=True):
        data[blob.offset : blob.offset + blob.n_bytes] = np.frombuffer(array.tobytes(), np.uint8)
    data.tofile(tmp_path / "data")
    settings: dict[str, Any] = {"domain": MICROSOFT, "bits": kind.run_bits, "block_size": nbits.BLOCK}
    arrays.node("MatMulNBits", ["x", *weight.inputs], "y", K=256, N=96, accuracy_level=4, **settings)
    gathered = [arrays.rows(weight), "ids", weight.inputs[1]]
    arrays.node("GatherBlockQuantized", gathered, "z", gather_axis=0, quantize_axis=1, **settings)
    helper, types = onnx.helper, onnx.TensorProto
    given = {"x": (types.FLOAT, [3, 256]), "ids": (types.INT64, [2])}
    made = {"y": (types.FLOAT, [3, 96]), "z": (types.FLOAT, [2, 256])}
    graph = helper.make_graph(
        arrays.nodes,
        "test",
        *(
            [helper.make_tensor_value_info(each, *about) for each, about in io.items()]
            for io in (given, made)
        ),
        arrays.initializers,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=opsets), tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, ["CPUExecutionProvider"])
    y, z = session.run(None, {"x": x, "ids": np.array([5, 90])})
    expected = nbits.decode(kind, encoded)
    np.testing.assert_allclose(y, x @ expected.T, atol=0.02)
    np.testing.assert_allclose(z, expected[[5, 90]], rtol=1e-6)
    if optimized:
        left = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
        assert {node.op_type for node in left} == {"MatMulNBits", "GatherBlockQuantized"}


@pytest.mark.parametrize("name", ["llama", "mistral_swa"])
def test_tokens_do_not_depend_on_mates_or_room(name: str, export: Export) -> None:
    ids = reference(name).token_ids.tolist()
    prompts = [ids[:40], [*ids[:40], *ids[:20]], ids[:70], ids[:40]]
    folder = export(name, "F32")
    expected = []
    for prompt in prompts:
        with load(folder) as model:
            generation = model.generate(prompt, GREEDY)
            list(generation)
            expected.append(generation.ids)
    for cache_tokens in (128, 1024):
        with load(folder, cache_tokens=cache_tokens) as model:
            for _ in range(2):
                generations = [model.generate(prompt, GREEDY) for prompt in prompts]
                for generation in generations:
                    list(generation)
                assert [generation.ids for generation in generations] == expected
            backend = model.backend
            model.scheduler.stop()
            assert backend.free_blocks == backend.n_blocks


def test_a_conversation_goes_on_from_the_cache(export: Export) -> None:
    history = reference("llama").token_ids.tolist()[:30]
    with load(export("llama", "F32")) as model:
        for turn in range(3):
            generation = model.generate(history, GREEDY)
            list(generation)
            assert generation.stats is not None
            if turn:
                assert generation.stats.n_cached == len(history) - 4
            history = [*history, *generation.ids, 3, 4, 5]


def test_forks_and_cuts_leave_the_other_sequence_alone(export: Export) -> None:
    ids = reference("llama").token_ids[:80].tolist()
    with load(export("llama", "F32"), cache_tokens=1024, batch=128) as model:
        backend = model.backend

        def feed(sequence: int, tokens: list[int]) -> NDArray[np.float32]:
            last = [*[False] * (len(tokens) - 1), True]
            rows: NDArray[np.float32] = np.asarray(backend.step(tokens, [sequence] * len(tokens), last))
            return rows.reshape(-1)

        whole = backend.open_sequence()
        expected = feed(whole, ids[:70])
        fork = backend.fork_sequence(whole, 33)
        np.testing.assert_allclose(feed(fork, ids[33:70]), expected, atol=1e-4)
        backend.truncate_sequence(whole, 5)
        np.testing.assert_allclose(feed(whole, ids[5:70]), expected, atol=1e-4)
        np.testing.assert_allclose(feed(fork, ids[70:71]), feed(whole, ids[70:71]), atol=1e-4)
        assert backend.sequence_length(fork) == 71


def test_hidden_rows_are_those_of_the_native_engine(export: Export, unpacked: Path) -> None:
    ids = reference("llama").token_ids[:40].tolist()
    with load(export("llama", "F32")) as model:
        found = model.backend.hidden(ids)
    with edgellm.load(official_gguf("llama", unpacked), context=128, threads=1) as native:
        np.testing.assert_allclose(found, native.backend.hidden(ids), atol=0.001)


def test_what_the_engine_refuses_changes_nothing(export: Export) -> None:
    with load(export("llama", "F32")) as model:
        backend = model.backend
        sequence = backend.open_sequence()
        with pytest.raises(BackendError, match="vocabulary"):
            backend.step([backend.n_vocab], [sequence], [True])
        with pytest.raises(BackendError, match="no open sequence"):
            backend.step([1], [sequence + 1], [True])
        with pytest.raises(BackendError, match="holds 0 tokens, expected 5 or more"):
            backend.truncate_sequence(sequence, 5)
        assert backend.sequence_length(sequence) == 0


def test_engine_and_file_must_go_together(export: Export, unpacked: Path) -> None:
    folder = export("llama", "F32")
    with pytest.raises(UsageError, match="--backend onnx"):
        edgellm.load(folder, backend="native")
    with pytest.raises(UsageError, match="kv-type"):
        edgellm.load(folder, kv_type="q8_0")
    with pytest.raises(UsageError, match="adapters"):
        edgellm.load(folder, lora=[folder / "adapter.gguf"])
    with pytest.raises(UsageError, match="--format onnx"):
        edgellm.load(official_gguf("llama", unpacked), backend="onnx")


def test_a_damaged_or_missing_graph_is_an_error_with_a_sentence(export: Export, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(export("llama", "F32"), folder)
    (folder / MODEL_FILE).write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"model\.onnx: ONNX Runtime cannot run this model"):
        edgellm.load(folder)
    (folder / MODEL_FILE).unlink()
    with pytest.raises(FileError, match="there is no such file"):
        edgellm.load(folder)


def test_chat_show_and_doctor_take_the_folder(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export("llama", "INT4")
    assert main(["show", str(folder), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["types"]["INT4"]["bytes"] <= summary["file_bytes"]
    assert summary["n_parameters"] > 100_000
    assert main(["doctor", str(folder)]) == 0
    with load(folder) as model:
        text = "".join(model.chat([{"role": "user", "content": "Hello"}], GREEDY))
        assert text
