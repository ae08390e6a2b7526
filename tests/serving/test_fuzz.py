"""Seeded malformed requests: a proper status for each, no crash, no hang, and the same answers afterwards. `make fuzz` sends 20 000."""

from __future__ import annotations

import collections
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from processes import started
from tensorflow_serving.apis import predict_pb2

from mmtfrs.exporting.request import image_bytes, wav_bytes
from serving.client import Client
from serving.limits import sizes
from serving.servable import Servable

REQUESTS = int(os.environ.get("MMTFRS_FUZZ", "1500"))
_AGAIN = 600  # of them, sent again and again to see what leaks
PREDICT = "/tensorflow.serving.PredictionService/Predict"
# UNKNOWN would be an exception that nobody foresaw. INTERNAL is what gRPC says of bytes that are no message.
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}
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
    """Makes requests out of sound ones by one to three changes.

    Args:
        signatures: `{name: SignatureDef}` of the model.
        media: intact images and audio.
        seed: request number n is the same for the same seed.
    """

    def __init__(self, signatures: dict, media: list[bytes], seed: int) -> None:
        self.signatures = signatures
        self.media = media
        self.seed = seed
        self.changes = [
            self._bytes,
            self._ids,
            self._type,
            self._shape,
            self._counts,
            self._missing,
            self._extra,
            self._spec,
            self._filter,
            self._giant,
            self._rows,
            self._tensor_content,
        ]

    def request(self, number: int) -> bytes:
        """Request `number`, serialized."""
        rng = np.random.default_rng([self.seed, number])
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "small"
        request.model_spec.signature_name = str(rng.choice(sorted(self.signatures)))
        rows = int(rng.integers(1, 4))
        for name, info in self.signatures[request.model_spec.signature_name].inputs.items():
            shape = [rows, *(max(dimension.size, 1) for dimension in info.tensor_shape.dim[1:])]
            kind = tf.dtypes.as_dtype(info.dtype)
            value = np.full(shape, b"", object) if kind == tf.string else rng.normal(size=shape).astype(kind.as_numpy_dtype)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        for change in rng.choice(len(self.changes), rng.integers(1, 4), replace=False):
            self.changes[change](request, rng)
        data = request.SerializeToString()
        if rng.random() < 0.05:  # bytes that are no message
            data = bytearray(data)
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(256)
            data = bytes(data[: rng.integers(1, len(data) + 1)])
        return data

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


@pytest.fixture(scope="module")
def process(exported, tmp_path_factory):
    with started(tmp_path_factory.mktemp("jobs")) as jobs:
        job = jobs("serving.server", exported, "--port", "0", "--name", "small")
        yield job, int(job.line("serving").rsplit(":", 1)[1])


def _resident(process) -> int:
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


@pytest.mark.slow
def test_malformed_requests(process, demo):
    made, port = process
    media = [image_bytes(next((demo / "image").glob(f"*.{kind}"))) for kind in ("png", "jpg")]
    media.append(wav_bytes(next((demo / "audio").glob("*.flac"))))
    with Client(f"localhost:{port}", "small") as client:
        before = client.recommend(user="user-0003", k=20)
        fuzzer = Fuzzer(client.signatures(), media, seed=7)
    codes: collections.Counter[str] = collections.Counter()
    odd: list[tuple[int, str]] = []
    with grpc.insecure_channel(f"localhost:{port}", options=sizes()) as channel:
        predict = channel.unary_unary(PREDICT)  # bytes in, bytes out

        def ask(number: int) -> None:
            data = fuzzer.request(number)
            try:
                predict(data, timeout=300)
                code = "OK"
            except grpc.RpcError as error:
                code, text = error.code().name, error.details()
                no_message = code == "INTERNAL" and "deserializing" in text
                if (code not in ALLOWED and not no_message) or "Traceback" in text or len(text) > 5000:
                    odd.append((number, f"{code}: {text[:200]}"))
            codes[code] += 1

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(REQUESTS)))
            seen, taken = codes.copy(), [_resident(made)]
            while len(taken) < 6 and (len(taken) < 2 or taken[-1] > 1.02 * taken[-2]):  # what leaks grows every time
                list(pool.map(ask, range(_AGAIN)))
                taken.append(_resident(made))
    assert not odd, odd[:5]
    assert sum(seen.values()) == REQUESTS and seen["OK"] > 0 and seen["INVALID_ARGUMENT"] > REQUESTS / 3, seen
    assert made.poll() is None
    assert "internal error" not in made.stderr
    assert taken[-1] < 1.02 * taken[-2], f"the same requests again and again take more and more memory: {taken}"
    with Client(f"localhost:{port}", "small") as client:
        assert client.recommend(user="user-0003", k=20) == before


def test_the_fuzzer_repeats_itself(exported):
    signatures = Servable(exported / "1").signature_defs
    made = [Fuzzer(signatures, [b"x" * 50], seed=3) for _ in range(2)]
    assert [made[0].request(n) for n in range(50)] == [made[1].request(n) for n in range(50)]
