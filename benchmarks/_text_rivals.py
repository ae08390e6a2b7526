"""Other ways of encoding texts by MiniLM, run by the Python of an environment of their own: it needs sentence-transformers,
onnxruntime, onnx and onnxscript. A line on standard input names one, and is answered by how many texts it encoded.

    python benchmarks/_text_rivals.py FOLDER TITLES BATCH
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sentence_transformers import SentenceTransformer


class _Transformer(torch.nn.Module):
    """With what comes behind it in MiniLM: the mean over the tokens, normalized."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask[..., None].to(states.dtype)
        return torch.nn.functional.normalize((states * there).sum(1) / there.sum(1), dim=1)


def _session(model: SentenceTransformer, folder: str) -> onnxruntime.InferenceSession:
    module, path = model[0], f"{folder}/model.onnx"
    example = module.tokenizer(["one", "two of them"], padding=True, return_tensors="pt")
    inputs = example["input_ids"], example["attention_mask"]
    axes = {"input_ids": {0: "rows", 1: "tokens"}, "attention_mask": {0: "rows", 1: "tokens"}, "made": {0: "rows"}}
    network = _Transformer(module.auto_model).eval()
    torch.onnx.export(
        network, inputs, path, input_names=[*axes][:2], output_names=["made"], dynamic_axes=axes, opset_version=17, dynamo=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    folder, titles, batch = sys.argv[1], Path(sys.argv[2]).read_text().splitlines(), int(sys.argv[3])
    model = SentenceTransformer(folder, device="cpu")
    with tempfile.TemporaryDirectory() as made:
        session = _session(model, made)

    def pytorch() -> np.ndarray:
        return model.encode(titles, batch_size=batch, show_progress_bar=False)

    def onnx() -> np.ndarray:
        order = np.argsort([-len(title) for title in titles])  # as sentence-transformers does
        features = np.empty((len(titles), 384), np.float32)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            tokens = model[0].tokenizer([titles[place] for place in part], padding=True, truncation=True, return_tensors="np")
            given = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
            features[part] = session.run(None, given)[0]
        return features

    assert np.abs(pytorch()[:100] - onnx()[:100]).max() < 1e-5
    print("ready", flush=True)
    for line in sys.stdin:
        print(len({"pytorch": pytorch, "onnx": onnx}[line.strip()]()), flush=True)


if __name__ == "__main__":
    main()
