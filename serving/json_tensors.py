"""Tensors as the JSON of TF Serving's REST interface has them."""

from __future__ import annotations

import base64
import json

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.servable import FIELDS, invalid


def columns(rows, names) -> dict | list:
    """`{input: its value in each row}`, or the rows as they are where the only input is not named."""
    if isinstance(rows, list) and rows:
        if all(isinstance(row, dict) and set(row) == set(names) for row in rows):
            return {name: [row[name] for row in rows] for name in names}
        if len(names) == 1:
            return rows
    raise invalid(f"Expecting 'instances' to be a list/array of objects with keys equal to: {','.join(sorted(names))}")


def tensor_of(value, dtype: tf.DType) -> tensor_pb2.TensorProto:
    made, level = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum), [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        if any(not isinstance(each, list) or len(each) != size for each in level):
            raise invalid(f"Encountered list at unexpected size, expected size: {size}")
        made.tensor_shape.dim.add(size=size)
        level = [each for part in level for each in part]
    kind = {tf.string: (str, dict), tf.bool: bool}.get(dtype, int if dtype.is_integer else (int, float))
    for each in level:
        if not isinstance(each, kind) or isinstance(each, bool) != (dtype == tf.bool):
            raise invalid(f"JSON Value: {json.dumps(each)[:80]} is not of expected type: {dtype.name}")
    try:
        if dtype == tf.string:
            level = [each.encode() if isinstance(each, str) else base64.b64decode(each["b64"], validate=True) for each in level]
        getattr(made, FIELDS[dtype]).extend(level)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise invalid(f"JSON Value not formatted correctly for {dtype.name}: {error}") from None
    return made


def plain(name: str, tensor: tensor_pb2.TensorProto):
    """Lists of an output: bytes in base64 where the name says that they are bytes, floats with the digits that they have."""
    array = tf.make_ndarray(tensor)
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        write = np.frompyfunc(
            lambda it: {"b64": base64.b64encode(it).decode()} if as_bytes else it.decode(errors="replace"), 1, 1
        )
        return np.asarray(write(array), object).tolist()
    if array.dtype.kind in "biu":
        return array.tolist()
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32).astype(str).astype(float).tolist()
