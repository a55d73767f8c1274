"""What the data of findings hold, as types; docs/schemas/ is made from them. A number that is not finite is null."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

Number = float | None


class Histogram(TypedDict):
    """How many features or units are between each two `edges`, of log10 of their density."""

    edges: list[float]
    counts: list[int]


class RecoveredRecord(TypedDict):
    """Cross-entropies in nats per token: of the model, with the reconstruction put back, and with the mean there instead;
    `share` of what the mean costs is recovered, null where it costs nothing."""

    tokens: int
    clean: Number
    spliced: Number
    ablated: Number
    kl: Number
    share: Number


class CodeRecord(TypedDict):
    """What a code explains: the share of variance left out, features active per token, the share of features never active."""

    fvu: Number
    l0: Number
    dead_share: Number


class GapRecord(TypedDict):
    """What a dictionary's encoder misses of what a pursuit finds with the same atoms."""

    own: CodeRecord
    same_atoms: CodeRecord
    of_encoder: Number


class DictionaryData(TypedDict):
    """Data of a `dictionary` finding."""

    dictionary: str
    site: str
    kind: str
    wiring: str
    features: int
    trained_on: int
    tokens_seen: int
    fvu: Number
    l0: Number
    dead_share: Number
    density_histogram: Histogram
    recovered: RecoveredRecord
    gap: GapRecord | None


class ExampleRecord(TypedDict):
    """A passage in which a feature fires: its tokens, how strongly the feature fires on each, and of which quantile of its
    firings this is."""

    tokens: list[str]
    acts: list[float]
    quantile: float


class FeatureRecord(TypedDict):
    """One feature: how often and how strongly it fires, where, which tokens it promotes and suppresses [text, nats], the
    features most like it [feature, cosine], and the share of it in each place written."""

    id: int
    density: float
    max: float
    quantiles: list[float]
    examples: list[ExampleRecord]
    top_logits: list[tuple[str, float]]
    bottom_logits: list[tuple[str, float]]
    neighbours: list[tuple[int, Number]]
    shares: list[Number]


class FeaturesData(TypedDict):
    """Data of a `features` finding: the most telling features first."""

    dictionary: str
    site: str
    places: list[str]
    tokens_seen: int
    fvu: Number
    l0: Number
    dead_share: Number
    density_histogram: Histogram
    features: list[FeatureRecord]


class SiteDensity(TypedDict):
    """How sparse the units of one site are; lists have an entry per criterion."""

    site: str
    units: int
    rms: Number
    headline: str
    density: list[float]
    quantiles: list[list[float]]
    dead: list[float]
    histogram: list[list[int]]
    hoyer: Number
    kurtosis: Number


class GaussianDensity(TypedDict):
    """The same figures of independent Gaussian units."""

    density: list[float]
    hoyer: float
    kurtosis: float


class DensityData(TypedDict):
    """Data of an `activation-density` finding. `claims` are ranges of densities, `skipped` the layers left out and why."""

    tokens: int
    criteria: list[str]
    claims: dict[str, list[float]]
    neurons: list[float]
    verdicts: list[str]
    edges: list[float]
    sites: list[SiteDensity]
    skipped: dict[str, str]
    gaussian: GaussianDensity


class ScoreRecord(TypedDict):
    """Of one probe on held-out tokens."""

    accuracy: Number
    balanced_accuracy: Number
    f1: Number
    auroc: Number


class SparseScore(ScoreRecord):
    """Of a probe on the `k` units chosen, strongest first."""

    k: int
    chosen: list[int]


class ProbesRecord(TypedDict):
    """One label in one basis: by number of units, with all of them, and by number of units for shuffled labels."""

    k: list[SparseScore]
    dense: ScoreRecord
    shuffled: list[SparseScore]


class BasisRecord(TypedDict):
    """What is probed: neurons, the residual stream, a dictionary's features."""

    name: str
    units: int


class LabelRecord(TypedDict):
    """A label, the share of tokens that have it, and its probes by basis."""

    name: str
    rate: float
    bases: dict[str, ProbesRecord]


class ProbingData(TypedDict):
    """Data of a `sparse-probing` finding."""

    dictionary: str
    site: str
    tokens: int
    held_out: int
    ks: list[int]
    bases: list[BasisRecord]
    labels: list[LabelRecord]
    skipped: dict[str, str]


def histogram_of(measured: Any) -> Histogram:
    """How often the features of a dictionary fire, from its report."""
    found = measured.density_histogram()
    return {"edges": found["edges"], "counts": found["counts"]}


def plain(record: Any) -> dict[str, Any]:
    """A record as the data of a finding."""
    return {**record}
