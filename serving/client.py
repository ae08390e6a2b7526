"""The client: the same for the local server and for TF Serving.

The messages' modules load TensorFlow, which takes seconds: they are imported where a request is made, not for `--help`.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from typing import Annotated

import grpc
import numpy as np
import typer

from mmtfrs.cli.console import CommandLine, note_unknown, print_recommendations, run_app
from mmtfrs.cli.options import (
    Allow,
    Boost,
    Count,
    Debug,
    Diversity,
    Exclude,
    History,
    Json,
    MinScore,
    QueryAudio,
    QueryImage,
    QueryText,
    Repeats,
    User,
)
from mmtfrs.errors import Error
from mmtfrs.exporting.request import (
    NO_SCORE,
    Query,
    list_request,
    predict_request,
    results,
    stack,
    title_request,
    title_results,
)
from mmtfrs.utils.text import split_ids
from serving.limits import sizes

app = CommandLine(no_args_is_help=True)


# A name with several addresses, as `dns:///` of a headless service, is asked at all of them in turn.
_ROUND_ROBIN = [("grpc.lb_policy_name", "round_robin")]


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
        retries: how often a call is made again that found the server UNAVAILABLE; nothing else is repeated.
        backoff: seconds before the first repetition, doubled before each further one.

    Example:
        >>> with Client("localhost:8500", "shop") as client:
        ...     client.recommend(user="u1", k=5)
    """

    def __init__(
        self, target: str, model: str, version: int | None = None, timeout: float = 30.0, retries: int = 3, backoff: float = 0.1
    ) -> None:
        self.model = model
        self.version = version
        self.timeout = timeout
        self.retries, self.backoff = retries, backoff
        self._channel = grpc.insecure_channel(target, options=[*sizes(), *_ROUND_ROBIN])
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._signatures: dict | None = None

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
        return results(self.predict(*(query or Query(**question)).request()), 0, k)

    def recommend_many(self, queries: Sequence[Query], k: int | None = None, batch: int = 32) -> list[list[tuple[str, float]]]:
        """As `recommend` for each query, in their order, up to `batch` of them per request.

        A batch that is refused for one of its queries is refused as a whole.
        """
        answers: list[list[tuple[str, float]]] = [[] for _ in queries]
        requests = [query.request() for query in queries]
        for signature in dict.fromkeys(name for name, _ in requests):
            rows = [row for row, (name, _) in enumerate(requests) if name == signature]
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                answer = self.predict(signature, stack([requests[row][1] for row in part]))
                for place, row in enumerate(part):
                    answers[row] = results(answer, place, k)
        return answers

    def similar_items(self, item: str, exclude: Sequence[str] = (), k: int | None = None, **limits) -> list[tuple[str, float]]:
        """Items like one item, best first, without the item itself; limits are those of `popular`."""
        inputs = list_request(**limits, exclude=exclude, item=item)
        return results(self.predict("similar_items", inputs), 0, k)

    def popular(self, k: int | None = None, **limits) -> list[tuple[str, float]]:
        """What was taken most lately, best first. Limits: a user and a history, whose items are left out, `exclude`, `allow`
        and `min_score`, as those of a `Query`."""
        return results(self.predict("popular", list_request(**limits)), 0, k)

    def titles(self, items: Sequence[str]) -> list[str]:
        """The title of each item; "" where it has none, is unknown, or the export was made by a release without titles."""
        if not items or self._definition("titles") is None:
            return [""] * len(items)
        return title_results(self.predict(*title_request(items)))

    def predict(self, signature: str, inputs: dict[str, np.ndarray], outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Any signature; inputs that are left out are sent empty, as TF Serving wants all of them.

        Args:
            signature: its name.
            inputs: arrays with the batch first; strings as object arrays of bytes.
            outputs: only these; all if empty.

        Returns:
            `{output: array}`.
        """
        request = predict_request(self.model, signature, {**self._absent(signature, inputs), **inputs})
        request.output_filter.extend(outputs)
        self._fill_spec(request.model_spec, signature)
        response = self._call(self._prediction.Predict, request)
        from mmtfrs._keras import tf

        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def signatures(self) -> dict:
        """`{name: SignatureDef}` of the model."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill_spec(request.model_spec)
        response = self._call(self._prediction.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return dict(found.signature_def)

    def status(self) -> dict[int, str]:
        """`{version: state}`, as `AVAILABLE`."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill_spec(request.model_spec)
        response = self._call(self._models.GetModelStatus, request)
        names = get_model_status_pb2.ModelVersionStatus.State
        return {entry.version: names.Name(entry.state) for entry in response.model_version_status}

    def _definition(self, signature: str):
        """Its SignatureDef, asked for once; None where the model has no such signature."""
        if self._signatures is None or signature not in self._signatures:
            self._signatures = self.signatures()
        return self._signatures.get(signature)

    def _absent(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Empty values, one row per row of the given inputs, for the inputs that are not given."""
        from mmtfrs._keras import tf

        known = self._definition(signature)
        if known is None:
            return {}
        rows = len(next(iter(inputs.values()))) if inputs else 1
        made = {}
        for name, info in known.inputs.items():
            if name not in inputs:
                rest = [1 if dimension.size < 0 else dimension.size for dimension in info.tensor_shape.dim][1:]
                dtype = tf.dtypes.as_dtype(info.dtype)
                empty = b"" if dtype == tf.string else NO_SCORE if name == "min_score" else 0
                made[name] = np.full([rows, *rest], empty, object if dtype == tf.string else dtype.as_numpy_dtype)
        return made

    def _fill_spec(self, spec, signature: str = "") -> None:
        spec.name, spec.signature_name = self.model, signature
        if self.version is not None:
            spec.version.value = self.version

    def _call(self, method, request):
        end = time.monotonic() + self.timeout
        for attempt in itertools.count():
            try:
                return method(request, timeout=max(end - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                # Half to whole of the wait, at random, so that many clients do not come back at once.
                wait = self.backoff * 2**attempt * random.uniform(0.5, 1.0)
                again = error.code() == grpc.StatusCode.UNAVAILABLE and attempt < self.retries
                if not again or time.monotonic() + wait >= end:
                    raise ServingError(error.code(), error.details()) from None
            time.sleep(wait)


@app.callback()
def _root(
    context: typer.Context,
    target: Annotated[str, typer.Option(help="HOST:PORT of the server.")] = "localhost:8500",
    model: Annotated[str, typer.Option(help="The model's name there.")] = "model",
    version: Annotated[int | None, typer.Option(help="The newest otherwise.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 30.0,
    debug: Debug = False,
) -> None:
    """Ask a model that TF Serving, or the local server, has loaded."""
    context.obj = lambda: Client(target, model, version, timeout)


@app.command()
def recommend(
    context: typer.Context,
    user: User = "",
    history: History = "",
    text: QueryText = "",
    image: QueryImage = "",
    audio: QueryAudio = "",
    k: Count = 10,
    exclude: Exclude = "",
    allow: Allow = "",
    boost: Boost = "",
    diversity: Diversity = 0.0,
    min_score: MinScore = None,
    repeats: Repeats = False,
    as_json: Json = False,
) -> None:
    """Recommend items."""
    query = Query.parse(
        user=user,
        history=history,
        text=text,
        image=image,
        audio=audio,
        exclude=exclude,
        allow=allow,
        boost=boost,
        diversity=diversity,
        min_score=min_score,
        repeats=repeats,
    )
    signature, inputs = query.request()
    with context.obj() as client:
        answer = client.predict(signature, inputs)
        note_unknown(user, answer)
        found = results(answer, 0, k)
        titles = client.titles([item for item, _ in found])
    print_recommendations(found, titles, as_json, query.described())


@app.command()
def similar(
    context: typer.Context, item: Annotated[str, typer.Argument(help="Item id.")], k: Count = 10, as_json: Json = False
) -> None:
    """Items like one item."""
    with context.obj() as client:
        found = client.similar_items(item, k=k)
        title, *titles = client.titles([item, *(each for each, _ in found)])
    print_recommendations(found, titles, as_json, f"like {item}" + (f": {title}" if title else ""))


@app.command()
def popular(
    context: typer.Context,
    user: User = "",
    history: History = "",
    k: Count = 10,
    exclude: Exclude = "",
    allow: Allow = "",
    min_score: MinScore = None,
    as_json: Json = False,
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
