"""From a program to an ONNX graph: one whole operation after the other, onto the operators of ONNX Runtime.

Inputs and outputs have the names that ONNX Runtime GenAI and Optimum use. Attention is com.microsoft's
GroupQueryAttention, which rotates queries and keys and keeps the cache; matrices of weights are its
MatMulNBits, or FusedMatMul where they stay float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.onnx_arrays import MICROSOFT, Arrays, StoredWeight
from edgellm.errors import BackendError, UnsupportedError, pip_install
from edgellm.program import Program
from edgellm.program.ops import Op
from edgellm.quant.nbits import BLOCK, KINDS, Kind

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

OPSET = 20
IR_VERSION = 9
# Activations are rounded to int8, by blocks of 32: SmolLM2-135M generates 73 tokens a second so and 4 with
# float32 activations (one thread, AVX-512), and diverges from its source as much (within 0.003 nats).
ACCURACY_LEVEL = 4
LOGITS_TO_KEEP = "num_logits_to_keep"
# GroupQueryAttention rotates pairs in groups of eight.
_ROTATED_MULTIPLE = 8
# Of SmolLM2-135M these lose most in 4 bits for what a fifth one takes. In 5, with embedding and head, they
# diverge .070, and .106 at the same size with 6 bits for those that Q4_K_M gives 6.
_FIVE_BITS = re.compile(r"(attn_v|attn_qkv|ffn_up|ffn_down)\.weight$")
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


@dataclass(slots=True)
class Graph:
    """An ONNX model without its large arrays, and where in the data file these belong.

    n_bytes: size of the data file.
    """

    model: ModelProto
    weights: list[StoredWeight]
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


def choose_kinds(program: Program, *, int4: bool) -> dict[str, Kind | None]:
    """Storage of the weights: matrices in 4 bits; embedding, head and those in which bits pay most, in 5.

    Rows that are not whole blocks, and what is no matrix, stay float32.
    """
    ends = {op.weights["weight"] for op in program.ops if op.kind == "embed"}
    ends |= {
        op.weights["weight"] for op in program.ops if op.out == program.logits and "weight" in op.weights
    }
    kinds: dict[str, Kind | None] = {}
    for op in program.ops:
        for name in op.weights.values():
            blocks = program.weights[name][-1] % BLOCK == 0
            matrix = op.kind in ("linear", "embed") and op.weights["weight"] == name
            kind = KINDS["int5" if name in ends or _FIVE_BITS.search(name) else "int4"]
            kinds[name] = kind if int4 and blocks and matrix else None
    return kinds


def build_graph(
    program: Program, kinds: Mapping[str, Kind | None], data_file: str, vectors: _Vectors
) -> Graph:
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
    kinds: Mapping[str, Kind | None]
    data_file: str
    vectors: _Vectors
    weights: dict[str, StoredWeight] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    ropes: dict[str, _Rope] = field(default_factory=dict)
    ropes_made: set[str] = field(default_factory=set)
    onnx: Any = field(default_factory=import_onnx)
    arrays: Arrays = field(init=False)

    def __post_init__(self) -> None:
        self.arrays = Arrays(self.onnx, self.data_file)

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
            self.arrays.nodes, program.family, self._inputs(), self._outputs(), self.arrays.initializers
        )
        model = helper.make_model(
            graph,
            producer_name="edgellm",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        )
        return Graph(model, list(self.weights.values()), self.arrays.end)

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
        if weight.kind is None:
            return self._node("Gather", [weight.name, "input_ids"], op.out, axis=0)
        return self._node(
            "GatherBlockQuantized",
            [self.arrays.rows(weight), "input_ids", *weight.inputs[1:]],
            op.out,
            domain=MICROSOFT,
            bits=weight.kind.run_bits,
            block_size=BLOCK,
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
        inputs = [self._value(op, op.ins[0]), *weight.inputs]
        name = f"{op.out}_product" if bias else op.out
        if weight.kind is None:
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
                bits=weight.kind.run_bits,
                block_size=BLOCK,
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
        self.arrays.nodes.append(
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

    def _node(
        self, kind: str, inputs: list[str] | tuple[str, ...], out: str, domain: str = "", **attributes: Any
    ) -> str:
        return self.arrays.node(kind, inputs, out, domain, **attributes)

    def _integers(self, name: str, value: int | list[int]) -> str:
        return self.arrays.integers(name, value)

    def _float(self, name: str, value: float) -> str:
        return self.arrays.constant(name, np.asarray(value, np.float32))

    def _vector(self, name: str) -> str:
        shape = self.program.weights[name]
        return self.arrays.constant(name, self.vectors(name).reshape(shape))

    def _rotation(self, rope: _Rope) -> list[str]:
        """Cosines and sines (n_ctx_train, rotated values / 2) of a table, which are made at load."""
        names = [f"{part}_cache_{rope.table}" for part in ("cos", "sin")]
        if names[0] not in self.ropes_made:
            self.ropes_made.add(names[0])
            table, arrays = self.program.tables[rope.table], self.arrays
            inv_freq = np.asarray(table.inv_freq, np.float64)
            if rope.factors is not None:
                inv_freq = inv_freq / self.vectors(rope.factors).astype(np.float64)
            ends = (("first_place", 0), ("places", self.program.n_ctx_train), ("place_step", 1))
            bounds = [arrays.constant(name, np.asarray(value, np.float64)) for name, value in ends]
            places = arrays.once("all_places", lambda: arrays.node("Range", bounds, "all_places"))
            axis = arrays.integers("one_axis", [1])
            column = arrays.once(
                "place_column", lambda: arrays.node("Unsqueeze", [places, axis], "place_column")
            )
            step = arrays.constant(f"inv_freq_{rope.table}", inv_freq)
            angles = arrays.node("Mul", [column, step], f"angles_{rope.table}")
            scale = arrays.constant(f"mscale_{rope.table}", np.asarray(table.mscale, np.float64))
            for name, function in zip(names, ("Cos", "Sin"), strict=True):
                waves = arrays.node(function, [angles], f"{name}_waves")
                scaled = arrays.node("Mul", [waves, scale], f"{name}_scaled")
                arrays.node("Cast", [scaled], name, to=self.onnx.TensorProto.FLOAT)
        return names

    def _matrix(self, name: str) -> StoredWeight:
        if name not in self.weights:
            self.weights[name] = self.arrays.matrix(name, self.kinds[name], self.program.weights[name])
        return self.weights[name]

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
