"""Every setting, by section, with its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import Field

from mmtfrs.errors import nearest
from mmtfrs.utils.extensions import PATTERN, is_import_path

Modality = str  # `image`, `text`, `audio`, or the name of features that the user brings
MODALITIES: tuple[Modality, ...] = ("image", "text", "audio")  # those that have raw media and an encoder
FUSIONS = (
    "concat",
    "weighted",
    "gated",
    "hierarchical",
    "attention",
    "coattention",
    "transformer",
    "graph",
    "capsule",
    "late_sum",
    "late_stacking",
    "late_voting",
)
SCORES = ("cosine", "dot", "euclidean", "pearson")
Loss = Literal["softmax", "bpr", "hinge"]
LOSSES = get_args(Loss)
Missing = Literal["null", "generator"]
MISSING = get_args(Missing)
Index = Literal["auto", "exact", "partitions", "scan", "scann"]
INDEXES = get_args(Index)
BASELINES = ("item_knn", "ease", "ease_media", "bpr", "id_only", "no_media")  # and every modality alone
RANKING = ("recall", "precision", "f1", "hit_rate", "ndcg", "mrr", "map")  # metrics of a list
Negatives = Literal["auto", "full", "in_batch", "mixed"]
NEGATIVES = get_args(Negatives)
HistoryEncoder = Literal["auto", "bag", "transformer"]


def _check(known: tuple[str, ...]) -> pydantic.AfterValidator:
    """Passes a name that is known, or says where a part of the user's own is imported from."""

    def check(value: str) -> str:
        if value not in known and not is_import_path(value):
            hint = nearest(value, known)
            raise ValueError(f"must be one of {', '.join(known)} or package.module:Name. Received: {value!r}.{hint}")
        return value

    return pydantic.AfterValidator(check)


def _schema(known: tuple[str, ...]) -> pydantic.WithJsonSchema:
    """The JSON schema of what `_check` passes."""
    return pydantic.WithJsonSchema({"anyOf": [{"type": "string", "enum": list(known)}, {"type": "string", "pattern": PATTERN}]})


def _path(value: str) -> str:
    if not is_import_path(value):
        raise ValueError(f"must be package.module:name. Received: {value!r}.")
    return value


ImportPath = Annotated[str, pydantic.AfterValidator(_path), Field(json_schema_extra={"pattern": PATTERN})]
Fusion = Annotated[str, _check(FUSIONS), _schema(FUSIONS)]
Score = Annotated[str, _check(SCORES), _schema(SCORES)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class ColumnsConfig(Section):
    """Names of the user's own columns, as `our name: their name`; what is not listed keeps our name."""

    items: dict[Literal["item_id", "text", "image", "audio", "video"], str] = {}
    events: dict[Literal["user_id", "item_id", "timestamp", "weight", "rating"], str] = {}
    users: dict[Literal["user_id", "text", "image", "audio"], str] = {}


class DataConfig(Section):
    """How files are read and split."""

    columns: ColumnsConfig = ColumnsConfig()
    features: dict[str, str] = Field(
        default={}, description="features of your own: modality name -> .npy file, one row per item"
    )
    attributes: tuple[str, ...] = Field(
        default=(), description="columns of the items file that requests can filter by and boost"
    )
    title: str | None = Field(
        default=None, description="column of the items file that recommendations show beside an id; none: the text's beginning"
    )
    media_root: str | None = Field(
        default=None, description="folder outside of which no medium is read, after links are resolved; none: any file is taken"
    )
    split: Literal["time", "user", "random", "none"] = "time"
    validation_share: Share = Field(default=0.1, description="share of all events; always cut from the training side")
    test_share: Share = Field(default=0.1, description="share of all events (time and random splits)")
    repeats: Literal["leave_out", "allow"] = Field(
        default="leave_out", description="whether what a user took may be recommended again"
    )


class EncodersConfig(Section):
    """One encoder per modality: a name, a local path or `offline`."""

    image: str = Field(default="auto", description="auto: efficientnetb0 where it is downloaded, else efficientnet-lite0")
    text: str = Field(default="auto", description="auto: use where it is downloaded, else minilm")
    audio: str = "yamnet"


class AugmentConfig(Section):
    """Altered copies of the items' media, of which each training step draws one: images cropped, mirrored and in other light,
    texts without some words, sounds without a while and a band."""

    views: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="of each image, text and sound; 0: none")


class ExtractionConfig(Section):
    """How raw media become features."""

    batch_size: Positive = 32
    workers: Positive = Field(default=2, description="threads that read and decode")
    max_pixels: Positive = Field(default=50_000_000, description="larger images are set aside")
    max_seconds: Annotated[float, Field(gt=0)] = Field(default=600.0, description="longer audio is set aside")
    frames: Positive = Field(default=8, description="sampled of a video")
    frame_pooling: Literal["mean", "attention"] = "mean"
    max_bytes: Positive = Field(default=200_000_000, description="larger media files are set aside")
    decoder: Literal["soundfile", "tensorflow-io"] = Field(
        default="soundfile",
        description="of audio; features are the same, and soundfile is faster (tensorflow-io: Python 3.10, 3.11)",
    )
    preprocess: dict[Literal["image", "text", "audio"], ImportPath] = Field(
        default={}, description="modality -> package.module:name, a function that each decoded medium goes through first"
    )

    augment: AugmentConfig = AugmentConfig()

    def step(self, modality: Modality) -> str:
        """The import path of what a modality's media go through first, or ""."""
        return next((path for name, path in self.preprocess.items() if name == modality), "")


class GraphConfig(Section):
    """The frozen graph of similar items that smooths the candidates' features."""

    neighbors: Count = Field(default=0, description="nearest items per modality; 0: no graph")
    layers: Positive = 1
    share: Share = Field(default=0.5, description="of an item's features that comes from its neighbors")


class ModelConfig(Section):
    """The shape of the two towers."""

    modalities: tuple[Modality, ...] | None = Field(default=None, description="those to use; none: all that the items have")
    fusion: Fusion = Field(default="concat", description="how the modalities of an item or a query become one vector")
    embedding_dim: Positive = Field(default=64, description="D: size of the shared space")
    hidden: tuple[Positive, ...] = Field(default=(128,), description="hidden layers of each tower's last MLP")
    feature_dim: Positive | None = Field(
        default=128, description="principal components kept of each modality's features; none: features as they are"
    )
    dropout: Share = 0.2
    use_item_id: bool = True
    use_user_id: bool = True
    id_dropout: Share = Field(default=0.5, description="share of user ids hidden in a training step, so that new users work")
    history_id_dropout: Share = Field(default=0.6, description="share of a history's ids hidden in training")
    history_dropout: Share = Field(default=0.1, description="share of histories hidden in training, for users without one")
    history_length: Count = Field(
        default=1000,
        description="newest items of the history that are used; a training step is shown 64 of them, drawn anew each time",
    )
    history_encoder: HistoryEncoder = Field(
        default="auto",
        description="bag: what a user took, in no order; transformer: what comes next, by the newest 64 items in their order; "
        "auto: a transformer where the log's order tells what comes next and it is the better one on validation",
    )
    history: Literal["past", "all"] = Field(
        default="all",
        description="what a training event's history is, of a bag: what came before it, or all else its user took",
    )
    modality_dropout: Share = Field(
        default=0.8, description="share of training rows of which half the media are hidden, to be robust to missing modalities"
    )
    missing: Missing = Field(
        default="null", description="what stands for an absent medium: one learned vector, or a guess from the others"
    )
    graph: GraphConfig = GraphConfig()
    score: Score = "cosine"

    @pydantic.model_validator(mode="after")
    def _order_of_something(self) -> ModelConfig:
        if self.history_encoder == "transformer" and not (self.history_length and self.use_item_id):
            raise ValueError("`history_encoder: transformer` needs histories and item ids: not `history_length: 0`.")
        return self


class LossConfig(Section):
    """What is minimized, and against which negatives."""

    name: Loss = "softmax"
    temperature: Annotated[float, Field(ge=0.001)] = Field(
        default=0.17, description="scores are divided by it, and by 0.4 of it where a transformer reads the histories"
    )
    margin: Weight = Field(default=0.2, description="of the hinge loss")
    negatives: Negatives = Field(
        default="auto",
        description="auto: full up to `full_up_to` items, above it in_batch, or mixed where a transformer reads the histories",
    )
    full_up_to: Count = Field(default=4096, description="items up to which every item is a negative of every event")
    uniform: Positive = Field(default=1024, description="items drawn uniformly beside the batch (negatives: mixed)")
    user_balance: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3,
        description="events of a user with n of them are weighted by n ** -user_balance; 1: every user weighs the same",
    )
    alignment: Weight = Field(default=0.0, description="weight of the contrast between an item's modalities")
    rating: Weight = Field(default=0.0, description="weight of the rating task; needs events with ratings")


class FineTuneConfig(Section):
    """Training the top of an encoder with the towers, after these have been trained on its frozen features."""

    blocks: Count = Field(default=0, description="blocks of the encoder to train, from the top; 0: it stays frozen")
    modality: Literal["image", "text", "audio"] = Field(default="image", description="whose encoder is trained")
    epochs: Positive = 2
    batch_size: Positive = Field(default=32, description="events, and so media, of a step")
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4


class TrainingConfig(Section):
    """How Keras fit runs."""

    epochs: Positive = 100
    batch_size: Positive = 1024
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    patience: Positive = Field(default=10, description="epochs without a better validation metric before the end")
    refit: bool | None = Field(
        default=None,
        description="train refitting on training and validation events, for as many epochs as were best; "
        "none: only where a split has no validation part, then the epochs are found on a part of the training events",
    )
    lr_decay: Share = Field(
        default=0.3, description="the learning rate falls by this factor after half of the patience; 0: never"
    )
    ema_momentum: Share = Field(
        default=0.99, description="momentum of the moving average of the weights, which is what is kept; 0: none"
    )
    mixed_precision: bool = False
    finetune: FineTuneConfig = FineTuneConfig()


def metric(value: str) -> str:
    name, _, k = value.partition("@")
    if name not in RANKING or not k.isdigit() or int(k) < 1:
        raise ValueError(
            f"must be METRIC@K with a metric of {', '.join(RANKING)}. Received: {value!r}.{nearest(name, RANKING)}"
        )
    return value


class EvaluationConfig(Section):
    """What is measured, over the whole catalog."""

    ks: tuple[Positive, ...] = (5, 10, 20, 50)
    monitor: str = Field(default="recall@20", description="the validation metric that picks the best epoch")
    history: Literal["static", "rolling"] = Field(
        default="static",
        description="a user of a later part is asked for once, as an export is that knows what was before the part, "
        "or anew before each event, as one that is sent histories; the other one is reported beside it",
    )
    baselines: tuple[str, ...] = Field(
        default=("ease", "id_only", "no_media"), description="what stands beside it; popularity is always there"
    )

    @pydantic.field_validator("monitor")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        return metric(value)


class ExportConfig(Section):
    """What the SavedModel answers."""

    k: Positive = Field(default=100, description="results per query; never more than the catalog")
    index: Index = Field(default="auto", description="auto: exact below 100 000 items, above it what reads least")
    recall: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="of an approximate index, against the exact one"
    )
    histories: Count = Field(
        default=1000,
        description="newest items per user that are a request's history where it has none; 0: an export knows of none",
    )
    int8: bool = Field(default=False, description="partitions store two times 8 bits a number: 0.6 of the memory")
    tpu: bool = Field(default=False, description="search with approx_max_k, which a TPU runs fastest")
    keep: Count = Field(default=0, description="newest versions that are kept when another one is written; 0: all")


class TuningConfig(Section):
    """What a search (`mmtfrs tune`) tries."""

    space: dict[str, Any] = Field(
        default={}, description="setting: a list of values, {min, max, scale: linear or log}, or one value that is not searched"
    )
    defaults: bool = Field(default=True, description="the space changes the usual one; false: it is all that is searched")
