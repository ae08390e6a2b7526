"""The client: the same for the local server and for TF Serving.

The messages' modules load TensorFlow, which takes seconds: they are imported where a request is made, not for `--help`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import grpc
import numpy as np
import typer

from mmtfrs.cli import options
from mmtfrs.cli.console import CommandLine, note_unknown, print_recommendations, run_app
from mmtfrs.errors import DataError, Error
from mmtfrs.exporting import request as messages
from mmtfrs.exporting.own_features import FACTS, SUFFIX, OwnFeatures
from mmtfrs.exporting.request import Query
from mmtfrs.utils.text import split_ids
from serving.limits import MAX_MESSAGE, MAX_ROWS, proxy, sizes

app = CommandLine(no_args_is_help=True)


class ServingError(Error):
    """The server refused a request or cannot be reached.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code


class Client:
    """Asks one model.

    Args:
        target: `HOST:PORT` of the server.
        model: its name there.
        version: a version number; the newest if None.
        timeout: seconds that an answer may take, repeated attempts included.
        retries: how often, from 0 to 4, gRPC makes a call again that found the server UNAVAILABLE; nothing else is repeated.
        backoff: seconds before the first repetition, at least 0.01, doubled before each further one.
        trust_code: whether functions of Python that the model names may be imported and run here, for what queries show of
            modalities that its graph does not encode.

    Example:
        >>> with Client("localhost:8500", "shop") as client:
        ...     client.recommend(user="u1", k=5)
    """

    def __init__(
        self,
        target: str,
        model: str,
        version: int | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        backoff: float = 0.1,
        trust_code: bool = False,
    ) -> None:
        self.model, self.version, self.timeout = model, version, timeout
        self._proxy, past = proxy(target)
        options = [*sizes(), *past, *_retrying(min(retries, 4), max(backoff, 0.01))]
        self._channel = grpc.insecure_channel(target, options=options)
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._signatures: dict = {}
        self._trust_code = trust_code
        self._own: OwnFeatures | None = None  # not known yet
        self._answered = 0  # the version that answered last

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def recommend(self, query: Query | None = None, k: int | None = None, **question) -> list[tuple[str, float]]:
        """`(item id, score)`, best first: for a `Query`, or its fields by name, as `recommend(user="u1", text="red shoes")`.

        Raises:
            mmtfrs.Error: a file cannot be read, the server refuses the request, or it cannot be reached.
        """
        return results(self.predict(*self.requests([query or Query(**question)])[0]), 0, k)

    def recommend_many(
        self, queries: Sequence[Query], k: int | None = None, batch: int = MAX_ROWS
    ) -> list[list[tuple[str, float]]]:
        """As `recommend` for each query, in their order, up to `batch` of them per request.

        Raises:
            mmtfrs.Error: as `recommend`, for the first query that has a problem; `predict` gives what all others are answered.
        """
        answers: list[list[tuple[str, float]]] = [[] for _ in queries]
        requests = self.requests(queries)
        for signature in dict.fromkeys(name for name, _ in requests):
            rows = [row for row, (name, _) in enumerate(requests) if name == signature]
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                answer = self.predict(signature, messages.stack([requests[row][1] for row in part]))
                for place, row in enumerate(part):
                    answers[row] = results(answer, place, k)
        return answers

    def requests(self, queries: Sequence[Query]) -> list[tuple[str, dict[str, np.ndarray]]]:
        """`(signature, inputs)` of each query, for `predict`; what the model's graph does not encode is encoded here."""
        if self._own is None and any(query.signature != "recommend_user" for query in queries):
            self._own = self._features_of_the_model()
        return (self._own or OwnFeatures({}, {})).requests(queries)

    def similar_items(self, item: str, exclude: Sequence[str] = (), k: int | None = None, **limits) -> list[tuple[str, float]]:
        """Items like one item, best first, without the item itself; limits are those of `popular`."""
        inputs = messages.list_request(**limits, exclude=exclude, item=item)
        return results(self.predict("similar_items", inputs), 0, k)

    def popular(self, k: int | None = None, **limits) -> list[tuple[str, float]]:
        """What was taken most lately, best first. Limits: a user and a history, whose items are left out, `exclude`, `allow`
        and `min_score`, as those of a `Query`."""
        return results(self.predict("popular", messages.list_request(**limits)), 0, k)

    def titles(self, items: Sequence[str]) -> list[str]:
        """The title of each item; "" where it has none, is unknown, or the export was made by a release without titles."""
        if not items or self._definition("titles") is None:
            return [""] * len(items)
        parts = [items[start : start + MAX_ROWS] for start in range(0, len(items), MAX_ROWS)]
        return [title for part in parts for title in messages.title_results(self.predict(*messages.title_request(part)))]

    def predict(self, signature: str, inputs: dict[str, np.ndarray], outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Any signature; inputs that are left out are sent empty, as TF Serving wants all of them.

        Args:
            signature: its name.
            inputs: arrays with the batch first; strings as object arrays of bytes.
            outputs: only these; all if empty.

        Returns:
            `{output: array}`.
        """
        from mmtfrs._keras import tf

        request = messages.predict_request(self.model, signature, self._absent(signature, inputs) | inputs, self.version)
        request.output_filter.extend(outputs)
        try:
            response = self._call(self._prediction.Predict, request)
        except ServingError as error:
            if error.code == grpc.StatusCode.INVALID_ARGUMENT:  # a new version may have other inputs
                self._forget()
            raise
        answered = response.model_spec.version.value
        if self._answered not in (0, answered):
            self._forget()
        self._answered = answered
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def signatures(self) -> dict:
        """`{name: SignatureDef}` of the model."""
        from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap

        spec = messages.model_spec(self.model, version=self.version)
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self._call(self._prediction.GetModelMetadata, request)
        return dict(SignatureDefMap.FromString(response.metadata["signature_def"].value).signature_def)

    def status(self) -> dict[int, str]:
        """`{version: state}`, as `AVAILABLE`."""
        from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus

        request = GetModelStatusRequest(model_spec=messages.model_spec(self.model, version=self.version))
        found = self._call(self._models.GetModelStatus, request).model_version_status
        return {entry.version: ModelVersionStatus.State.Name(entry.state) for entry in found}

    def _features_of_the_model(self) -> OwnFeatures:
        """Which features it takes, by the inputs of its signatures, and what code makes them, by an answer of its own."""
        known = self._definition("serving_default")
        inputs = known.inputs.items() if known is not None else ()
        dims = {name.removesuffix(SUFFIX): info.tensor_shape.dim[1].size for name, info in inputs if name.endswith(SUFFIX)}
        made_by = {}
        if dims and "encoded_by" in self._signatures:
            answer = self.predict("encoded_by", {"modality": np.array([name.encode() for name in dims], object)})
            told = [{fact: answer[fact][row].decode() for fact in FACTS} for row in range(len(dims))]
            made_by = {name: facts for name, facts in zip(dims, told, strict=True) if facts["encoder"]}
        return OwnFeatures(dims, made_by, self._trust_code)

    def _forget(self) -> None:
        """What is known of a version that may be gone."""
        self._signatures, self._own = {}, None

    def _definition(self, signature: str):
        """Its SignatureDef, asked for once; None where the model has no such signature."""
        if signature not in self._signatures:
            self._signatures = self.signatures()
        return self._signatures.get(signature)

    def _absent(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Empty values, one row per row of the given inputs, for the inputs that are not given."""
        from mmtfrs._keras import tf

        known = self._definition(signature)
        rows = len(next(iter(inputs.values()))) if inputs else 1
        made = {}
        for name, info in known.inputs.items() if known is not None else ():
            if name not in inputs:
                rest = [1 if dimension.size < 0 else dimension.size for dimension in info.tensor_shape.dim][1:]
                dtype = tf.dtypes.as_dtype(info.dtype)
                empty = b"" if dtype == tf.string else messages.NO_SCORE if name == "min_score" else 0
                made[name] = np.full([rows, *rest], empty, object if dtype == tf.string else dtype.as_numpy_dtype)
        return made

    def _call(self, method, request):
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            by = f" (by way of {self._proxy})" if self._proxy and error.code() == grpc.StatusCode.UNAVAILABLE else ""
            raise ServingError(error.code(), f"{error.details()}{by}") from None


def results(answer: dict[str, np.ndarray], row: int = 0, k: int | None = None) -> list[tuple[str, float]]:
    """As `request.results`, its problem a `ServingError`."""
    try:
        return messages.results(answer, row, k)
    except DataError as error:
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None


def _retrying(retries: int, backoff: float) -> list[tuple[str, str | int]]:
    """Channel options for gRPC's own retries. It makes no more than four, and calls that wait less than a millisecond hang.

    A name with several addresses, as `dns:///` of a headless service, is asked at all of them in turn.
    """
    config: dict = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        policy = {
            "maxAttempts": retries + 1,
            "initialBackoff": f"{backoff}s",
            "maxBackoff": f"{backoff * 2**retries}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE),  # a larger request than is kept would not be repeated
        ("grpc.initial_reconnect_backoff_ms", int(1000 * backoff)),  # gRPC's second is longer than all repetitions together
    ]


@app.callback()
def _root(
    context: typer.Context,
    target: options.Target = "localhost:8500",
    model: options.ModelName = "model",
    version: Annotated[int | None, typer.Option(help="The newest otherwise.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 30.0,
    trust_code: options.TrustCode = False,
    debug: options.Debug = False,
) -> None:
    """Ask a model that TF Serving, or the local server, has loaded."""
    context.obj = lambda: Client(target, model, version, timeout, trust_code=trust_code)


@app.command()
def recommend(
    context: typer.Context,
    user: options.User = "",
    history: options.History = "",
    text: options.QueryText = "",
    image: options.QueryImage = "",
    audio: options.QueryAudio = "",
    k: options.Count = 10,
    exclude: options.Exclude = "",
    allow: options.Allow = "",
    boost: options.Boost = "",
    diversity: options.Diversity = 0.0,
    min_score: options.MinScore = None,
    repeats: options.Repeats = False,
    features: options.QueryFeatures = None,
    as_json: options.Json = False,
) -> None:
    """Recommend items."""
    asked = {"user": user, "history": history, "text": text, "image": image, "audio": audio}
    limits = {"exclude": exclude, "allow": allow, "boost": boost, "diversity": diversity, "min_score": min_score}
    query = Query.parse(**asked, **limits, repeats=repeats, features=features)
    query.request({})  # a file that cannot be read is told before anything is loaded
    with context.obj() as client:
        answer = client.predict(*client.requests([query])[0])
        note_unknown(user, answer)
        found = results(answer, 0, k)
        titles = client.titles([item for item, _ in found])
    print_recommendations(found, titles, as_json, query.described())


@app.command()
def similar(context: typer.Context, item: options.ItemId, k: options.Count = 10, as_json: options.Json = False) -> None:
    """Items like one item."""
    with context.obj() as client:
        found = client.similar_items(item, k=k)
        title, *titles = client.titles([item, *(each for each, _ in found)])
    print_recommendations(found, titles, as_json, f"like {item}" + (f": {title}" if title else ""))


@app.command()
def popular(
    context: typer.Context,
    user: options.User = "",
    history: options.History = "",
    k: options.Count = 10,
    exclude: options.Exclude = "",
    allow: options.Allow = "",
    min_score: options.MinScore = None,
    as_json: options.Json = False,
) -> None:
    """What was taken most lately."""
    lists = {"history": split_ids(history), "exclude": split_ids(exclude), "allow": split_ids(allow)}
    with context.obj() as client:
        found = client.popular(k, user=user, min_score=min_score, **lists)
        titles = client.titles([each for each, _ in found])
    print_recommendations(found, titles, as_json, "popular")


@app.command()
def status(context: typer.Context) -> None:
    """The versions that the server knows, and their states."""
    with context.obj() as client:
        for version, state in client.status().items():
            print(f"{version}  {state}")


if __name__ == "__main__":
    run_app(app)
