"""From a program to an ONNX graph: one whole operation after the other, onto the operators of ONNX Runtime.

Inputs and outputs have the names that ONNX Runtime GenAI and Optimum use. Attention is com.microsoft's
GroupQueryAttention, which rotates queries and keys and keeps the cache; matrices of weights are its
MatMulNBits, or FusedMatMul where they stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError, UnsupportedError, pip_install
from edgellm.program import Program
from edgellm.program.ops import Op
from edgellm.quant import zero4

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

Kind = Literal["f32", "int8", "int4"]
Shape = tuple[int, ...]

OPSET = 20
IR_VERSION = 9
MICROSOFT = "com.microsoft"
# Activations are rounded to int8, by blocks of 32: SmolLM2-135M generates 73 tokens a second so and 4 with
# float32 activations (one thread, AVX-512), and diverges from its source as much (within 0.003 nats).
ACCURACY_LEVEL = 4
# Alignment of arrays in the data file: a page, so that they can be mapped.
ALIGNMENT = 4096
LOGITS_TO_KEEP = "num_logits_to_keep"
# GroupQueryAttention rotates pairs in groups of eight.
_ROTATED_MULTIPLE = 8
_BITS = {"int8": 8, "int4": 4}
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


@dataclass(frozen=True, slots=True)
class Blob:
    """An array in the data file: its bytes lie at offset .. offset + n_bytes."""

    name: str
    data_type: int
    shape: Shape
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight of the program: the arrays that hold it (values; or codes, scales and zero points)."""

    name: str
    kind: Kind
    shape: Shape
    blobs: tuple[Blob, ...]


@dataclass(slots=True)
class Graph:
    """An ONNX model without its large arrays, and where in the data file these belong.

    constants: the arrays that are not weights, by the blob that they fill. n_bytes: size of the data file.
    """

    model: ModelProto
    weights: list[StoredWeight]
    constants: list[tuple[Blob, NDArray[Any]]]
    n_bytes: int


def import_onnx() -> Any:
    """The onnx package; BackendError says how to install it."""
    try:
        import onnx
    except ImportError as error:
        raise BackendError(
            f"Writing ONNX needs the onnx package ({error}); install it with "
            f"{pip_install('onnx', 'onnxruntime')}"
        ) from None
    return onnx


def choose_kinds(program: Program, *, int4: bool, lifted: Collection[str] = ()) -> dict[str, Kind]:
    """Storage of the weights: matrices in 4 bits; embedding, head and `lifted` ones, which matter more, in 8.

    Rows that are not whole blocks, and what is no matrix, stay float32.
    """
    ends = {op.weights["weight"] for op in program.ops if op.kind == "embed"} | set(lifted)
    ends |= {
        op.weights["weight"] for op in program.ops if op.out == program.logits and "weight" in op.weights
    }
    kinds: dict[str, Kind] = {}
    for op in program.ops:
        for name in op.weights.values():
            blocks = program.weights[name][-1] % zero4.BLOCK == 0
            matrix = op.kind in ("linear", "embed") and op.weights["weight"] == name
            kinds[name] = "f32" if not (int4 and blocks and matrix) else "int8" if name in ends else "int4"
    return kinds


def build_graph(program: Program, kinds: Mapping[str, Kind], data_file: str, vectors: _Vectors) -> Graph:
    """The graph of a program whose weights are stored as `kinds` says, in `data_file`.

    vectors: reads a small weight. Raises UnsupportedError for an operation that has no equal here.
    """
    return _Translator(program, kinds, data_file, vectors).translate()


_Vectors = Callable[[str], NDArray[np.float32]]


@dataclass(slots=True)
class _Rope:
    """A rotation that is left to the attention which reads it."""

    source: str
    table: str
    kind: str
    factors: str | None


@dataclass(slots=True)
class _Translator:
    program: Program
    kinds: Mapping[str, Kind]
    data_file: str
    vectors: _Vectors
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    weights: dict[str, StoredWeight] = field(default_factory=dict)
    constants: list[tuple[Blob, NDArray[Any]]] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    ropes: dict[str, _Rope] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    end: int = 0
    onnx: Any = field(default_factory=import_onnx)

    def translate(self) -> Graph:
        program = self.program
        if program.logits is None or program.states:
            raise UnsupportedError(
                f"the {program.family} model is an encoder or keeps recurrent states, expected a decoder "
                "with attention only; it cannot be written as ONNX"
            )
        self._lengths()
        for op in program.ops:
            translate = _OPS.get(op.kind)
            if translate is None:
                raise self._unsupported(op)
            if op.kind != "rope":
                self.values[op.out] = translate(self, op)
            else:
                self._rope(op)
            if op.out == program.hidden:
                self._keep_last(op.out)
        self._node("Identity", [self.values[program.logits]], "logits")
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, program.family, self._inputs(), self._outputs(), self.initializers
        )
        model = helper.make_model(
            graph,
            producer_name="edgellm",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        )
        return Graph(model, list(self.weights.values()), self.constants, self.end)

    # Inputs and outputs of every model.

    def _inputs(self) -> list[ValueInfoProto]:
        info, types = self.onnx.helper.make_tensor_value_info, self.onnx.TensorProto
        inputs = [
            info("input_ids", types.INT64, ["batch_size", "sequence_length"]),
            info("attention_mask", types.INT64, ["batch_size", "total_sequence_length"]),
        ]
        # One with a default: who does not know it need not give it.
        inputs.append(info(LOGITS_TO_KEEP, types.INT64, [1]))
        return inputs + self._caches("past_key_values", "past_sequence_length")

    def _outputs(self) -> list[ValueInfoProto]:
        info, types = self.onnx.helper.make_tensor_value_info, self.onnx.TensorProto
        rows = ["batch_size", "sequence_length"]
        return [
            info("logits", types.FLOAT, ["batch_size", "logits_length", self.program.n_vocab]),
            *self._caches("present", "total_sequence_length"),
            info("hidden_states", types.FLOAT, [*rows, self.program.width]),
        ]

    def _caches(self, prefix: str, length: str) -> list[ValueInfoProto]:
        info, types = self.onnx.helper.make_tensor_value_info, self.onnx.TensorProto
        return [
            info(f"{prefix}.{i}.{part}", types.FLOAT, ["batch_size", cache.n_kv_heads, length, cache.key_dim])
            for i, cache in enumerate(self.program.caches)
            for part in ("key", "value")
        ]

    def _lengths(self) -> None:
        """Inputs of GroupQueryAttention made of the mask: the last place of each sequence, and its width."""
        int32 = self.onnx.TensorProto.INT32
        axis, one = self._integers("one_axis", [1]), self._integers("one", 1)
        self._node("ReduceSum", ["attention_mask", axis], "mask_sum", keepdims=0)
        self._node("Sub", ["mask_sum", one], "last_place")
        self._node("Cast", ["last_place"], "seqlens_k", to=int32)
        self._node("Shape", ["attention_mask"], "mask_shape")
        self._node("Gather", ["mask_shape", one], "mask_width", axis=0)
        self._node("Cast", ["mask_width"], "total_length", to=int32)

    def _keep_last(self, hidden: str) -> None:
        """Before the head, all rows but the last `num_logits_to_keep` go; 0, the default, keeps all."""
        self._node("Identity", [self.values[hidden]], "hidden_states")
        self._integers(LOGITS_TO_KEEP, [0])
        self._node("Neg", [LOGITS_TO_KEEP], "first_kept")
        end, axis = self._integers("slice_end", [np.iinfo(np.int64).max]), self._integers("one_axis", [1])
        self.values[hidden] = self._node("Slice", ["hidden_states", "first_kept", end, axis], "kept_states")

    # One method for each operation.

    def _embed(self, op: Op) -> str:
        if op.attrs["source"] != "token":
            raise self._unsupported(op)
        weight = self._matrix(op.weights["weight"])
        if weight.kind == "f32":
            return self._node("Gather", [weight.blobs[0].name, "input_ids"], op.out, axis=0)
        rows, cols = weight.shape
        # The bytes of the head's matrix under another shape, where both are one.
        codes = weight.blobs[0]
        data = self._alias(codes, f"{codes.name}_rows", (rows, cols * _BITS[weight.kind] // 8))
        return self._node(
            "GatherBlockQuantized",
            [data, "input_ids", *(blob.name for blob in weight.blobs[1:])],
            op.out,
            domain=MICROSOFT,
            bits=_BITS[weight.kind],
            block_size=zero4.BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )

    def _norm(self, op: Op) -> str:
        groups, weight, bias = int(op.attrs["groups"]), op.weights.get("weight"), op.weights.get("bias")
        rms = op.attrs["kind"] == "rms"
        if op.attrs["kind"] == "l2" or weight is None or (rms and bias):
            raise self._unsupported(op)
        if self.program.weights[weight] != (self.program.widths[op.out] // groups,):
            raise self._unsupported(op)
        x, shape = self._value(op, op.ins[0]), self._integers("row_shape", [0, 0, -1])
        if groups > 1:
            size = self.program.widths[op.out] // groups
            heads = self._integers(f"heads_{groups}_{size}", [0, 0, groups, size])
            x = self._node("Reshape", [x, heads], f"{op.out}_heads")
        inputs = [x, self._vector(weight), *([self._vector(bias)] if bias else [])]
        kind = "SimplifiedLayerNormalization" if rms else "LayerNormalization"
        name = op.out if groups == 1 else f"{op.out}_normed"
        out = self._node(kind, inputs, name, axis=-1, epsilon=float(op.attrs["eps"]))
        return out if groups == 1 else self._node("Reshape", [out, shape], op.out)

    def _linear(self, op: Op) -> str:
        weight, bias = self._matrix(op.weights["weight"]), op.weights.get("bias")
        inputs = [self._value(op, op.ins[0]), *(blob.name for blob in weight.blobs)]
        name = f"{op.out}_product" if bias else op.out
        if weight.kind == "f32":
            out = self._node("FusedMatMul", inputs, name, domain=MICROSOFT, transB=1)
        else:
            rows, cols = weight.shape
            out = self._node(
                "MatMulNBits",
                inputs,
                name,
                domain=MICROSOFT,
                K=cols,
                N=rows,
                bits=_BITS[weight.kind],
                block_size=zero4.BLOCK,
                accuracy_level=ACCURACY_LEVEL,
            )
        return self._node("Add", [out, self._vector(bias)], op.out) if bias else out

    def _affine(self, op: Op) -> str:
        out, factor = self._value(op, op.ins[0]), float(op.attrs["factor"])
        if factor != 1.0:
            out = self._node("Mul", [out, self._float(f"{op.out}_factor", factor)], f"{op.out}_scaled")
        for role, kind in (("weight", "Mul"), ("bias", "Add")):
            if role in op.weights:
                out = self._node(kind, [out, self._vector(op.weights[role])], f"{op.out}_{role}")
        return out

    def _rope(self, op: Op) -> None:
        table, kind = str(op.attrs["table"]), str(op.attrs["kind"])
        self.ropes[op.out] = _Rope(op.ins[0], table, kind, op.weights.get("factors"))

    def _attention(self, op: Op) -> str:
        cache = self.program.caches[int(op.attrs["cache"])] if op.attrs["causal"] else None
        if cache is None or "sinks" in op.weights or cache.key_dim != cache.value_dim or op.attrs["max_bias"]:
            raise self._unsupported(op)
        query, key, value = op.ins
        rotations = [self.ropes.get(query), self.ropes.get(key)]
        tables: list[str] = []
        attributes: dict[str, Any] = {"do_rotary": 0}
        if rotations[0] is not None and rotations[1] is not None:
            first, second = rotations[0], rotations[1]
            if (first.table, first.kind, first.factors) != (second.table, second.kind, second.factors):
                raise self._unsupported(op)
            if len(self.program.tables[first.table].inv_freq) % _ROTATED_MULTIPLE:
                raise self._unsupported(op)
            query, key = first.source, second.source
            tables = self._rotation(first)
            attributes = {"do_rotary": 1, "rotary_interleaved": int(first.kind == "interleaved")}
        number = int(op.attrs["cache"])
        past = [f"past_key_values.{number}.{part}" for part in ("key", "value")]
        present = [f"present.{number}.{part}" for part in ("key", "value")]
        self.nodes.append(
            self.onnx.helper.make_node(
                "GroupQueryAttention",
                [
                    *(self._value(op, name) for name in (query, key, value)),
                    *past,
                    "seqlens_k",
                    "total_length",
                    *tables,
                ],
                [op.out, *present],
                name=op.out,
                domain=MICROSOFT,
                num_heads=int(op.attrs["n_heads"]),
                kv_num_heads=cache.n_kv_heads,
                scale=float(op.attrs["scale"]),
                softcap=float(op.attrs["softcap"]),
                local_window_size=int(op.attrs["window"]) or -1,
                **attributes,
            )
        )
        return op.out

    def _glu(self, op: Op) -> str:
        gate, up = (self._value(op, name) for name in op.ins)
        gate = self._activate(op, gate, str(op.attrs["activation"]), f"{op.out}_gate")
        return self._node("Mul", [gate, up], op.out)

    def _activation(self, op: Op) -> str:
        return self._activate(op, self._value(op, op.ins[0]), str(op.attrs["fn"]), op.out)

    def _add(self, op: Op) -> str:
        return self._node("Add", [self._value(op, name) for name in op.ins], op.out)

    def _softcap(self, op: Op) -> str:
        cap = self._float(f"{op.out}_cap", float(op.attrs["cap"]))
        scaled = self._node("Div", [self._value(op, op.ins[0]), cap], f"{op.out}_scaled")
        bounded = self._node("Tanh", [scaled], f"{op.out}_bounded")
        return self._node("Mul", [bounded, cap], op.out)

    def _slice(self, op: Op) -> str:
        if op.attrs["groups"] != 1:
            raise self._unsupported(op)
        start = int(op.attrs["start"])
        ends = [[start], [start + int(op.attrs["size"])], [2]]
        bounds = [self._integers(f"slice_{value[0]}", value) for value in ends]
        return self._node("Slice", [self._value(op, op.ins[0]), *bounds], op.out)

    def _activate(self, op: Op, x: str, name: str, out: str) -> str:
        match name:
            case "silu":
                return self._node("Mul", [x, self._node("Sigmoid", [x], f"{out}_sigmoid")], out)
            case "gelu" | "gelu_tanh":
                return self._node("Gelu", [x], out, approximate="none" if name == "gelu" else "tanh")
            case _ if name in _ACTIVATIONS:
                return self._node(_ACTIVATIONS[name], [x], out)
        raise self._unsupported(op)

    # Nodes, constants and weights.

    def _value(self, op: Op, name: str) -> str:
        if name not in self.values:
            raise self._unsupported(op)
        return self.values[name]

    def _node(self, kind: str, inputs: list[str], out: str, domain: str = "", **attributes: Any) -> str:
        node = self.onnx.helper.make_node(kind, inputs, [out], name=out, domain=domain, **attributes)
        self.nodes.append(node)
        return out

    def _integers(self, name: str, value: int | list[int]) -> str:
        """A small constant, kept in the model's own file."""
        return self._constant(name, np.asarray(value, np.int64))

    def _float(self, name: str, value: float) -> str:
        return self._constant(name, np.asarray(value, np.float32))

    def _vector(self, name: str) -> str:
        shape = self.program.weights[name]
        return self._constant(name, self.vectors(name).reshape(shape))

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self.known:
            self.known.add(name)
            self.initializers.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def _rotation(self, rope: _Rope) -> list[str]:
        """Cosines and sines (n_ctx_train, rotated values / 2) of a table."""
        names = [f"{part}_cache_{rope.table}" for part in ("cos", "sin")]
        if names[0] not in self.known:
            self.known.update(names)
            table = self.program.tables[rope.table]
            inv_freq = np.asarray(table.inv_freq, np.float64)
            if rope.factors is not None:
                inv_freq = inv_freq / self.vectors(rope.factors).astype(np.float64)
            angles = np.arange(self.program.n_ctx_train)[:, None] * inv_freq
            for name, function in zip(names, (np.cos, np.sin), strict=True):
                values = (function(angles) * table.mscale).astype(np.float32)
                blob = self._blob(name, np.dtype(np.float32), values.shape)
                self.constants.append((blob, values))
        return names

    def _matrix(self, name: str) -> StoredWeight:
        if name not in self.weights:
            shape, kind = self.program.weights[name], self.kinds[name]
            if kind == "f32":
                blobs = [self._blob(name, np.dtype(np.float32), shape)]
            else:
                rows, n_blocks = shape[0], shape[1] // zero4.BLOCK
                block_bytes = zero4.BLOCK * _BITS[kind] // 8
                blobs = [
                    self._blob(f"{name}_codes", np.dtype(np.uint8), (rows, n_blocks, block_bytes)),
                    self._blob(f"{name}_scales", np.dtype(np.float32), (rows, n_blocks)),
                ]
                if kind == "int4":
                    points = (rows, (n_blocks + 1) // 2)
                    blobs.append(self._blob(f"{name}_zero_points", np.dtype(np.uint8), points))
            self.weights[name] = StoredWeight(name, kind, shape, tuple(blobs))
        return self.weights[name]

    def _blob(self, name: str, dtype: np.dtype[Any], shape: Shape) -> Blob:
        data_type = self.onnx.helper.np_dtype_to_tensor_dtype(dtype)
        blob = Blob(name, data_type, shape, self.end, prod(shape) * dtype.itemsize)
        self.end += -(-blob.n_bytes // ALIGNMENT) * ALIGNMENT
        self._declare(blob)
        return blob

    def _alias(self, blob: Blob, name: str, shape: Shape) -> str:
        """The same bytes as an array of another shape."""
        if name not in self.known:
            self._declare(Blob(name, blob.data_type, shape, blob.offset, blob.n_bytes))
            self.known.add(name)
        return name

    def _declare(self, blob: Blob) -> None:
        tensor = self.onnx.TensorProto(name=blob.name, data_type=blob.data_type, dims=blob.shape)
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        place = {"location": self.data_file, "offset": blob.offset, "length": blob.n_bytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)

    def _unsupported(self, op: Op) -> UnsupportedError:
        attributes = ", ".join(f"{key}={value}" for key, value in op.attrs.items())
        return UnsupportedError(
            f"the {self.program.family} model's operation {op.kind} ({attributes}) has no equal in ONNX "
            "Runtime that edgellm can write; convert it to GGUF instead"
        )


_OPS: dict[str, Callable[[_Translator, Op], Any]] = {
    "embed": _Translator._embed,
    "norm": _Translator._norm,
    "linear": _Translator._linear,
    "affine": _Translator._affine,
    "rope": _Translator._rope,
    "attention": _Translator._attention,
    "glu": _Translator._glu,
    "activation": _Translator._activation,
    "add": _Translator._add,
    "softcap": _Translator._softcap,
    "slice": _Translator._slice,
}
