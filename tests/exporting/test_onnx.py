"""Signatures that go on to ONNX, for servers that have no TensorFlow."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from processes import run_interpreter

from mmtfrs._keras import tf
from mmtfrs.exporting.loaded import LoadedModel

# What tf2onnx 1.17 converts, as far as the signature needs it: another op is added here when the test below passes with it.
CONVERTED = {
    *(
        "Const",
        "Identity",
        "NoOp",
        "Placeholder",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "ReadVariableOp",
        "HashTableV2",
    ),
    *(
        "AddV2",
        "Assert",
        "All",
        "BroadcastTo",
        "Cast",
        "ConcatV2",
        "EnsureShape",
        "Equal",
        "Fill",
        "GatherV2",
        "Greater",
        "GreaterEqual",
        "IsFinite",
        "Less",
    ),
    *(
        "LogicalNot",
        "LogicalOr",
        "LookupTableFindV2",
        "MatMul",
        "Max",
        "Maximum",
        "Minimum",
        "Neg",
        "Pack",
        "Pad",
        "PadV2",
        "Range",
        "Rank",
    ),
    *("Reshape", "SelectV2", "Shape", "TensorScatterUpdate", "Size", "StridedSlice", "Sub", "TopKV2", "Transpose"),
}


def test_recommend_from_embedding_has_ops_that_onnx_has(tiny):
    graph = tf.saved_model.load(str(tiny / "1")).signatures["recommend_from_embedding"].graph.as_graph_def()
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    nodes, called, waiting = [], set(), [list(graph.node)]
    while waiting:
        found = waiting.pop()
        nodes += found
        names = {node.attr["f"].func.name for node in found if "f" in node.attr} - called
        called |= names
        waiting += [list(functions[name]) for name in names]
    assert {node.op for node in nodes} <= CONVERTED
    (lookup,) = [node for node in nodes if node.op == "LookupTableFindV2"]
    assert lookup.attr["Tout"].type == tf.int64.as_datatype_enum  # ONNX has string to int64 alone


@pytest.mark.slow  # each conversion is a fresh TensorFlow
@pytest.mark.parametrize("signature", ["recommend_from_embedding", "embed_query_dense", "embed_candidate_dense"])
def test_converted_answers_equal_tensorflow(signature, tiny, tmp_path):
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed; nothing here needs it")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; nothing here needs it")
    path = tmp_path / "model.onnx"
    command = f"-m tf2onnx.convert --saved-model {tiny / '1'} --signature_def {signature} --tag serve --output {path}"
    done = run_interpreter(*command.split(), PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    assert done.returncode == 0, done.stderr
    session, loaded, rng = onnxruntime.InferenceSession(str(path)), LoadedModel(tiny), np.random.default_rng(0)
    names = [output.name for output in session.get_outputs()]
    for exclude in ([[""]], [["", "i3", "none such"]], [["", "i5", "i5"], ["", "", ""]], [[""], [""], [""]]):
        inputs = {
            put.name: np.array(exclude, object)
            if put.name == "exclude"
            else rng.normal(size=(len(exclude), put.shape[1])).astype(np.float32)
            for put in session.get_inputs()
        }
        if "exclude" in inputs and len(exclude[0]) > 1:  # else what is excluded might not have been answered anyway
            best = session.run(["item_id"], inputs | {"exclude": np.full([len(exclude), 1], "", object)})[0]
            inputs["exclude"][:, 2] = best[:, 0]
        expected, found = loaded.ask(signature, _bytes(inputs)), dict(zip(names, session.run(names, inputs), strict=True))
        assert set(found) == set(expected)
        if "exclude" in inputs:
            assert all((_bytes(found)[name] == expected[name]).all() for name in ("item_id", "problem"))
            for ids, left_out in zip(found["item_id"], inputs["exclude"], strict=True):
                assert not set(ids) & (set(left_out) - {""})
        for name in found.keys() - {"item_id", "problem"}:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def _bytes(arrays):
    return {
        name: np.vectorize(str.encode, [object])(value) if value.dtype == object else value for name, value in arrays.items()
    }
