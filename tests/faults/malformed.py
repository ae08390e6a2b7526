"""Seeded malformed requests of twenty kinds, made out of sound ones."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

IDS = [
    "",
    "user-0003",
    "item-0001",
    "nobody",
    "a\0b",
    "\0",
    "\N{ROCKET}\N{SKULL}",
    "é" * 300,
    "x" * 100_000,
    " ",
    "\n",
    "../..",
    "%s%n",
]


def bomb_png(side: int) -> bytes:
    """A small file that says it is `side` x `side` pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


def bomb_wav(claimed: int) -> bytes:
    """Sixteen samples whose header claims far more."""
    data = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    return b"RIFF" + struct.pack("<I", claimed) + b"WAVEfmt " + data + b"data" + struct.pack("<I", claimed) + b"\1\2" * 16


class Fuzzer:
    """Makes requests out of sound ones by one to three changes, the first of which is of each kind in turn.

    Args:
        signatures: `{name: SignatureDef}` of the model.
        media: intact images and audio.
        seed: request number n is the same for the same seed.
        model: its name at the server.
    """

    def __init__(self, signatures: dict, media: list[bytes], seed: int, model: str = "small") -> None:
        self.signatures, self.model = signatures, model
        self.media = media
        self.seed = seed

    def request(self, number: int) -> bytes:
        """Request `number`, serialized."""
        rng = np.random.default_rng([self.seed, number])
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.model_spec.signature_name = str(rng.choice(sorted(self.signatures)))
        rows = int(rng.integers(1, 4))
        for name, info in self.signatures[request.model_spec.signature_name].inputs.items():
            shape = [rows, *(max(dimension.size, 1) for dimension in info.tensor_shape.dim[1:])]
            kind = tf.dtypes.as_dtype(info.dtype)
            value = np.full(shape, b"", object) if kind == tf.string else rng.normal(size=shape).astype(kind.as_numpy_dtype)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        kinds = [number % len(KINDS), *rng.choice(len(KINDS), rng.integers(0, 3))]
        for kind in kinds:
            if KINDS[kind] != NO_MESSAGE:
                getattr(self, f"_{KINDS[kind]}")(request, rng)
        data = request.SerializeToString()
        return _scrambled(data, rng) if KINDS[kinds[0]] == NO_MESSAGE else data

    def _any(self, request, rng):
        names = sorted(request.inputs)
        return request.inputs[str(rng.choice(names))] if names else tf.make_tensor_proto(0.0)

    def _medium(self, rng) -> bytes:
        whole = self.media[rng.integers(len(self.media))]
        kind = rng.integers(6)
        if kind == 0:
            return whole[: rng.integers(len(whole))]
        if kind == 1:
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 20):
                broken[place] = rng.integers(256)
            return bytes(broken)
        if kind == 2:
            return bomb_png(int(rng.choice([0, 1, 7_000, 60_000, 2**31 - 1])))
        if kind == 3:
            return bomb_wav(int(rng.choice([0, 32, 2**31, 2**32 - 1])))
        if kind == 4:
            return rng.bytes(int(rng.integers(1, 5000)))
        return b"GIF89a" + struct.pack("<HH", 65535, 65535) + rng.bytes(50)

    def _bytes(self, request, rng):
        names = [name for name in ("image", "audio") if name in request.inputs]
        if names:
            values = request.inputs[str(rng.choice(names))].string_val
            values[:] = [self._medium(rng) for _ in values]

    def _ids(self, request, rng):
        tensor = self._any(request, rng)
        made = [str(rng.choice(IDS)).encode() if rng.random() < 0.8 else rng.bytes(9) for _ in tensor.string_val]
        tensor.string_val[:] = made

    def _type(self, request, rng):
        self._any(request, rng).dtype = int(rng.integers(0, 140))

    def _shape(self, request, rng):
        shape = self._any(request, rng).tensor_shape
        del shape.dim[:]
        for _ in range(rng.integers(0, 5)):
            shape.dim.add(size=int(rng.choice([-7, -1, 0, 1, 2, 3, 1000, 2**31, 2**62])))
        shape.unknown_rank = bool(rng.random() < 0.2)

    def _counts(self, request, rng):
        tensor = self._any(request, rng)
        tensor.string_val.extend([b"more"] * int(rng.integers(1, 5)))
        tensor.float_val.extend([float("nan"), float("inf"), -1e38])

    def _missing(self, request, rng):
        if request.inputs:
            del request.inputs[str(rng.choice(sorted(request.inputs)))]

    def _extra(self, request, rng):
        request.inputs[str(rng.choice(["", "nothing", "\0", "user_id"]))].CopyFrom(tf.make_tensor_proto(rng.normal(size=3)))

    def _spec(self, request, rng):
        kind = rng.integers(4)
        if kind == 0:
            request.model_spec.name = str(rng.choice(IDS))
        elif kind == 1:
            request.model_spec.version.value = int(rng.choice([-1, 0, 2, 2**62]))
        elif kind == 2:
            request.model_spec.version_label = "stable"
        else:
            request.model_spec.signature_name = str(rng.choice([*IDS, "__saved_model_init_op", *sorted(self.signatures)]))

    def _filter(self, request, rng):
        request.output_filter.extend(rng.choice(["item_id", "score", "embedding", "nothing", ""], rng.integers(1, 4)).tolist())

    def _giant(self, request, rng):
        if rng.random() < 0.05:
            tensor = self._any(request, rng)
            tensor.string_val[:] = [b"g" * int(rng.integers(1 << 20, 8 << 20))]

    def _rows(self, request, rng):
        tensor = self._any(request, rng)
        if tensor.tensor_shape.dim:
            tensor.tensor_shape.dim[0].size = int(rng.integers(0, 6))
            if tensor.string_val:
                tensor.string_val[:] = [b"x"] * tensor.tensor_shape.dim[0].size

    def _tensor_content(self, request, rng):
        self._any(request, rng).tensor_content = rng.bytes(int(rng.integers(0, 64)))

    def _floats(self, request, rng):
        """Numbers that are none, or beyond what a score can be, in the shape that is wanted."""
        for tensor in request.inputs.values():
            if tensor.dtype == tf.float32.as_datatype_enum and rng.random() < 0.7:
                value = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45])
                tensor.CopyFrom(tf.make_tensor_proto(np.full(_shape(tensor), value, np.float32)))

    def _text(self, request, rng):
        """Bytes that are no UTF-8, and characters that tokenizers stumble over."""
        if "text" in request.inputs:
            values = request.inputs["text"].string_val
            odd = (
                b"\xff\xfe\x00",
                b"\xed\xa0\x80",
                b"\xf4\x90\x80\x80",
                "\u202e\u0000\ufffe".encode(),
                b"a" * 300_000,
                b" " * 5000,
            )
            values[:] = [odd[rng.integers(len(odd))] for _ in values]

    def _long(self, request, rng):
        """Lists of very many entries."""
        for name in ("history", "exclude", "allow"):
            if name in request.inputs:
                tensor = request.inputs[name]
                tensor.CopyFrom(_strings([*_shape(tensor)[:1], int(rng.integers(500, 3000))], b"item-0001"))

    def _empty(self, request, rng):
        """Lists without entries, and no row at all."""
        for tensor in request.inputs.values():
            if tensor.tensor_shape.dim and rng.random() < 0.5:
                tensor.tensor_shape.dim[-1].size = 0
                tensor.ClearField("string_val"), tensor.ClearField("float_val"), tensor.ClearField("tensor_content")

    def _limits(self, request, rng):
        """Attributes and boosts that say nothing or contradict each other."""
        for name in ("allow", "boost_attribute"):
            if name in request.inputs:
                odd = (
                    b"=",
                    b"==",
                    b"category=",
                    b"=food",
                    b"category",
                    b"nothing=at all",
                    b"\xff=\xff",
                    b"category=food" * 5000,
                )
                values = request.inputs[name].string_val
                values[:] = [odd[rng.integers(len(odd))] for _ in values]

    def _many_rows(self, request, rng):
        """More rows than a batch has, all inputs alike."""
        rows = int(rng.integers(30, 200))
        for tensor in request.inputs.values():
            if tensor.dtype == tf.string.as_datatype_enum:
                tensor.CopyFrom(_strings([rows, *_shape(tensor)[1:]]))
            elif tensor.dtype == tf.float32.as_datatype_enum:
                tensor.CopyFrom(tf.make_tensor_proto(np.zeros([rows, *_shape(tensor)[1:]], np.float32)))

    def _nothing(self, request, rng):
        """No inputs, no model, or neither."""
        kind = rng.integers(3)
        if kind:
            request.ClearField("inputs")
        if kind != 1:
            request.ClearField("model_spec")


NO_MESSAGE = "no_message"
KINDS = (
    *("bytes", "ids", "type", "shape", "counts", "missing", "extra", "spec", "filter", "giant", "rows", "tensor_content"),
    *("floats", "text", "long", "empty", "limits", "many_rows", "nothing", NO_MESSAGE),
)


def _shape(tensor) -> list[int]:
    """Its shape, which another change may have made a giant's."""
    return [min(max(dimension.size, 0), 64) for dimension in tensor.tensor_shape.dim]


def _strings(shape: list[int], value: bytes = b""):
    return tf.make_tensor_proto(np.full(shape, value, object))


def _scrambled(data: bytes, rng) -> bytes:
    """Bytes that are no message."""
    broken = bytearray(data or b"x")
    for place in rng.integers(0, len(broken), 8):
        broken[place] = rng.integers(256)
    return bytes(broken[: rng.integers(1, len(broken) + 1)])
