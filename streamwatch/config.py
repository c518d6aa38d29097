"""Typed, frozen settings: one slice per room, one YAML file, `STREAMWATCH_*` overrides.

Precedence: environment, then file, then the defaults below. `STREAMWATCH_SERVER__PORT=9000` overrides `server.port`;
a name that ends in `_FILE` reads its value from that file (`STREAMWATCH_STREAMS__LOBBY__URL_FILE=/run/secrets/lobby`).
The published JSON Schema is `json_schema()`. Faults are collected and raised together, one line each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from streamwatch.configfile import environment, merge, read_yaml, variable_of
from streamwatch.domain import Severity
from streamwatch.errors import ConfigError

OWN_LABELS = frozenset({"tracks", "resolved", "supplements", "interrupted", "detector_drift"})
"""What the service says of an alert by labels, so that no stream's own may be called so."""
_OF_ALL = "a detector_drift rule speaks of all streams together"
SLUG = re.compile(r"^[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?$")


def _slug(value: str) -> str:
    if not SLUG.match(value):
        raise ValueError("must be 1 to 64 of a-z, 0-9, '-' and '_', and begin and end with a letter or digit")
    return value


def _labels(value: dict[str, str]) -> dict[str, str]:
    own = sorted(OWN_LABELS & value.keys())
    if own:
        raise ValueError(f"{', '.join(own)}: is set by the service itself")
    return value


def _threshold(value: float | None, info: ValidationInfo) -> float | None:
    if value is not None and not value > 0 and info.data.get("kind") in ("cusum", "detector_drift"):
        raise PydanticCustomError("too_low", "must be greater than 0")  # what never rises would alarm
    return value


def _relative_box(value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = value
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError("must be [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 366)]
RelativeBox = Annotated[tuple[float, float, float, float], AfterValidator(_relative_box)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class StreamSettings(Settings):
    """One stream. What is not given is taken from `ingest` and `alerts`."""

    url: SecretStr
    """rtsp://, rtsps://, http(s)://, rtmp://, file:, webcam:, lavfi:, whip: (a browser publishes), whep+https://, or
    canary: (the built-in stream with known answers). Credentials in it are write-only."""
    name: str = Field(default="", max_length=200)
    """What people read; the slug when empty."""
    enabled: bool = True
    """False: configured but paused."""
    sample_fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Analysed frames a second."""
    burst_fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Analysed frames a second while a track is suspicious."""
    transport: Literal["auto", "tcp", "udp"] | None = None
    decoder: Literal["auto", "cpu", "cuda", "vaapi", "videotoolbox"] | None = None
    tls_verify: bool | None = None
    """Whether the server must show a certificate for its name by a known authority. None: yes for https:// and
    whep+https://, no for rtsps:// and rtmps://, since cameras sign their own."""
    tls_ca: FilePath | None = None
    """The authorities to accept instead of the well-known ones, or the camera's own certificate (a PEM file); asks for
    the check."""
    roi: RelativeBox | None = None
    """Only faces whose centre lies in this part of the picture count."""
    ignore: tuple[RelativeBox, ...] = ()
    """Faces whose centre lies in one of these are ignored."""
    max_faces: Annotated[int, Field(ge=1, le=64)] = 16
    threshold: Ratio | None = None
    """Overrides the weight set's threshold for this stream."""
    store_frames: Literal["alerts", "never"] | None = None
    loop: bool = False
    """file: only. Start again at the end."""
    realtime: bool = True
    """file: only. False reads as fast as possible."""
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = {}
    """Carried by this stream's alerts."""


class IngestSettings(Settings):
    sample_fps: Annotated[float, Field(gt=0, le=240)] = 2.0
    burst_fps: Annotated[float, Field(gt=0, le=240)] = 5.0
    budget_fps: Annotated[float, Field(gt=0)] | None = None
    """Analysed frames a second over all streams; None: measured from the device's speed."""
    transport: Literal["auto", "tcp", "udp"] = "auto"
    decoder: Literal["auto", "cpu", "cuda", "vaapi", "videotoolbox"] = "auto"
    open_timeout: Seconds = 10.0
    read_timeout: Seconds = 5.0
    """No packet for so long: the stream is STALLED and is opened again."""
    backoff_initial: Seconds = 0.5
    backoff_cap: Seconds = 30.0
    backoff_auth: Seconds = 60.0
    """First delay after wrong credentials; it doubles to ten times this, so that a camera does not lock the account."""
    stable_after: Seconds = 10.0
    """A run that lasted so long resets the backoff."""
    max_frame_age: Seconds = 10.0
    """Older frames are dropped, counted as stale."""
    max_side: Annotated[int, Field(ge=320, le=16_384)] = 3840
    """Pixels. Larger frames are scaled down to this longer side, in the same pass that converts their colours; faces
    are cropped from what is left."""
    allow_schemes: tuple[str, ...] = ("rtsp", "rtsps", "whip")
    """Schemes that the API may add; the configuration file may use them all."""
    allow_hosts: tuple[str, ...] | None = None
    """Hosts or networks (CIDR) that sources added by the API may reach, checked on the resolved address.
    None: any when bound to loopback, else none."""


class DeviceSettings(Settings):
    devices: tuple[str, ...] = ("auto",)
    """auto, cpu, cuda, cuda:0, ... One worker thread each."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of torch on a CPU device; 0: all cores but one, which decodes."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 32
    max_queue: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Faces waiting for the device; beyond it work is refused and counted."""
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How long a batch waits to fill. 0 on a CPU; a few ms may pay on a GPU."""
    deadline: Seconds = 2.0
    """A frame that waits so long for the device, from when its analysis began, is dropped, counted as expired."""


class DetectorSettings(Settings):
    weights: Path | None = None
    """A BlazeFace file of your own (safetensors, or the original blazeface.pth); None: the bundled one."""
    tiles: Literal["default", "fine"] = "default"
    score_threshold: Ratio | None = None
    """None: what the weights' manifest says."""
    min_face: Annotated[float, Field(ge=8, le=1024)] = 40.0
    """Pixels of box height. Faces under scoring.min_size are shown, not judged."""
    max_fps: Annotated[float, Field(gt=0, le=240)] = 5.0
    """Detections a second of a stream. At higher rates the frames in between follow the faces by their motion."""


class EnsembleSettings(Settings):
    weights: str = "bundled"
    """bundled, dfspot-celeb, dfspot-dfdc, dfspot-ffpp, or a directory with a manifest."""
    members: tuple[str, ...] | None = None
    """A subset by name; None: all of the set."""
    threshold: Ratio | None = None
    """None: the weight set's own."""


class ScoringSettings(Settings):
    window: Seconds = 10.0
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of the logits cut off at either end before the mean."""
    confirm_hits: Annotated[int, Field(ge=1, le=100)] = 3
    lost_after: Seconds = 2.0
    min_coverage: Ratio = 0.5
    min_frames: Annotated[int, Field(ge=1, le=1000)] = 5
    stale_after: Seconds = 5.0
    min_size: Annotated[float, Field(ge=0)] = 64.0
    """Box height, pixels: smaller faces are not scored ..."""
    full_size: Annotated[float, Field(ge=0)] = 96.0
    """... and up to this they have half weight."""
    hysteresis: Ratio = 0.05
    """How far below the threshold the score must fall before the verdict does."""
    suspect_margin: Ratio = 0.1
    """SUSPECT from threshold minus this."""


class RuleSettings(Settings):
    """One rule. Which fields count depends on `kind`."""

    kind: Literal["window", "cusum", "stream_down", "stream_stale", "no_face_for", "detector_drift", "canary"]
    severity: Severity = Severity.WARNING
    threshold: Annotated[float | None, AfterValidator(_threshold)] = None
    """window: score, None for the stream's own. cusum: of the accumulated state. detector_drift: logits."""
    release: float | None = None
    """Resolves below this. None: threshold minus scoring.hysteresis (window), half the threshold (cusum)."""
    for_: Annotated[float, Field(ge=0)] = Field(default=0.0, alias="for")
    """Seconds that the condition must hold; for stream_down the hold-off."""
    resolve_after: Annotated[float, Field(ge=0)] = 2.0
    """Seconds that the release condition must hold."""
    cooldown: Annotated[float, Field(ge=0)] = 30.0
    """Seconds after a resolution in which the same rule does not open again for the same stream; a condition that still
    holds afterwards opens it then."""
    drift: float = 0.0
    """cusum: subtracted from each clipped logit."""
    streams: tuple[str, ...] | None = None
    """Only these; None: all. Not for detector_drift, which speaks of all streams together."""
    enabled: bool = True


class SilenceSettings(Settings):
    """A maintenance window: alerts are recorded, marked silenced, and delivered to no one."""

    streams: tuple[str, ...] | None = None
    start: str
    """ISO 8601 date and time with offset, or HH:MM (UTC) for every day."""
    end: str
    reason: str = ""


class SinkSettings(Settings):
    kind: Literal["webhook", "alertmanager", "apprise", "log", "command"]
    url: SecretStr | None = None
    """webhook, alertmanager (its base address), apprise."""
    secret: SecretStr | None = None
    """webhook: key of the HMAC-SHA256 signature."""
    command: tuple[str, ...] | None = None
    """command: gets the alert as JSON on standard input."""
    timeout: Seconds = 10.0
    give_up_after: Seconds = 86_400.0
    min_severity: Severity = Severity.INFO


class EvidenceSettings(Settings):
    enabled: bool = True
    directory: Path = Path("var/evidence")
    pre_roll: Annotated[float, Field(ge=0, le=300)] = 10.0
    post_roll: Annotated[float, Field(ge=0, le=300)] = 5.0
    ring_seconds: Annotated[float, Field(ge=1, le=600)] = 30.0
    ring_megabytes: Annotated[float, Field(gt=0, le=4096)] = 32.0
    """Bound of one stream's ring of packets or frames."""
    store_frames: Literal["alerts", "never"] = "alerts"
    keep_days: Annotated[float, Field(gt=0)] = 30.0
    keep_gigabytes: Annotated[float, Field(gt=0)] = 10.0
    signing_key: Path | None = None
    """Ed25519 private key (PEM); None: made at first start beside the evidence."""

    @model_validator(mode="after")
    def _ring_holds_the_rolls(self) -> Self:
        if self.ring_seconds < self.pre_roll + self.post_roll:
            raise ValueError("ring_seconds must be at least pre_roll and post_roll together")
        return self


DEFAULT_RULES: dict[str, Any] = {
    "deepfake": {"kind": "window", "severity": "critical", "for": 1.0},
    "stream-down": {"kind": "stream_down", "severity": "warning", "for": 30.0},
    "stream-stale": {"kind": "stream_stale", "severity": "warning", "for": 10.0},
    "detector-drift": {"kind": "detector_drift", "severity": "warning"},
}
"""Always there; what a configuration says of one of them goes over it (`enabled: false`: off)."""


class AlertSettings(Settings):
    rules: dict[Slug, RuleSettings] = Field(
        default_factory=lambda: {k: RuleSettings(**v) for k, v in DEFAULT_RULES.items()}
    )
    overrides: dict[Slug, dict[Slug, dict[str, Any]]] = {}
    """stream -> rule -> fields of the rule that differ for that stream."""
    silences: dict[Slug, SilenceSettings] = {}
    sinks: dict[Slug, SinkSettings] = Field(default_factory=lambda: {"log": SinkSettings(kind="log")})
    evidence: EvidenceSettings = EvidenceSettings()
    group_wait: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Seconds in which alerts of one stream gather into one delivery."""


class HistorySettings(Settings):
    url: SecretStr = SecretStr("sqlite+aiosqlite:///var/streamwatch.db")
    """sqlite+aiosqlite:///PATH or postgresql+asyncpg://user:password@host/database"""
    keep_scores_days: Annotated[float, Field(gt=0)] = 7.0
    downsample_after_hours: Annotated[float, Field(gt=0)] = 24.0
    buffer: Annotated[int, Field(ge=100, le=10_000_000)] = 20_000
    """Rows waiting for the database; beyond it the oldest are lost, and counted."""


class AuthSettings(Settings):
    tokens: Path = Path("var/tokens.json")
    """Hashed tokens, written by `streamwatch token create`."""
    anonymous_loopback: bool = True
    """Without tokens only on loopback, with a loopback Host and no Forwarded header."""
    jwks_url: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    session_hours: Annotated[float, Field(gt=0, le=720)] = 12.0


class ServerSettings(Settings):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8460
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Host names by which the service may be addressed, besides loopback and `host`."""
    max_clients: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_body: Annotated[int, Field(ge=1024, le=64 << 20)] = 1 << 20
    resume_ring: Annotated[int, Field(ge=0, le=100_000)] = 512
    """Messages kept for clients that come back."""
    auth: AuthSettings = AuthSettings()

    @model_validator(mode="after")
    def _tls_pair(self) -> ServerSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self


class Config(Settings):
    streams: dict[Slug, StreamSettings] = {}
    ingest: IngestSettings = IngestSettings()
    device: DeviceSettings = DeviceSettings()
    detector: DetectorSettings = DetectorSettings()
    ensemble: EnsembleSettings = EnsembleSettings()
    scoring: ScoringSettings = ScoringSettings()
    alerts: AlertSettings = AlertSettings()
    history: HistorySettings = HistorySettings()
    server: ServerSettings = ServerSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


def json_schema() -> dict[str, Any]:
    """The published schema (JSON Schema 2020-12) of the configuration file."""
    schema = Config.model_json_schema(by_alias=True)
    del schema["$defs"]["RuleSettings"]["required"]  # the kind of a default rule is known
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "StreamWatch configuration"}


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """The settings of a file (None: defaults) under the environment's overrides. Raises ConfigError with all faults."""
    data = read_yaml(path) if path is not None else {}
    over = environment(os.environ if environ is None else environ)
    return parse(data, source=str(path) if path is not None else "environment", over=over)


def parse(data: Mapping[str, Any], source: str = "configuration", over: Mapping[str, Any] | None = None) -> Config:
    """Raises ConfigError: one line a fault, `source: path: what`. Values never appear, they may be secrets. `over` is
    what the environment says, and goes over `data`: a fault of it names the variable."""
    try:
        config = Config.model_validate(merge(_with_default_rules(data), over or {}))
    except ValidationError as error:
        raise ConfigError(*(f"{place}: {fault}" for place, fault in _faults(error, source, over or {}))) from None
    if unheeded := [*_unheeded(config)]:
        raise ConfigError(*(f"{source}: alerts.{fault}" for fault in unheeded))
    return config


def _with_default_rules(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rules over the default ones, by name and field: naming one keeps the others, and what it does not say."""
    alerts = data.get("alerts", {})
    rules = alerts.get("rules", {}) if isinstance(alerts, Mapping) else None
    if not isinstance(rules, Mapping):
        return data  # of the wrong type, which is told with all other faults
    own = {n: {**DEFAULT_RULES.get(n, {}), **rule} if isinstance(rule, Mapping) else rule for n, rule in rules.items()}
    return {**data, "alerts": {**alerts, "rules": {**DEFAULT_RULES, **own}}}


def _unheeded(config: Config) -> Iterator[str]:
    """What is said of streams and rules that are not there, or where nothing heeds it. A rule that is off may name what
    it likes; and where no stream is configured all are the API's, whose names nobody knows yet."""
    alerts, known, absent = config.alerts, config.streams, "there is no such stream"
    named = [(f"rules.{name}", rule.streams) for name, rule in alerts.rules.items() if rule.enabled]
    named += [(f"silences.{name}", silence.streams) for name, silence in alerts.silences.items()]
    for place, streams in named:
        yield from (f"{place}.streams: {stream}: {absent}" for stream in streams or () if known and stream not in known)
    drifts = [name for name, rule in alerts.rules.items() if rule.kind == "detector_drift"]
    yield from (f"rules.{name}.streams: {_OF_ALL}" for name in drifts if alerts.rules[name].streams is not None)
    for stream, changes in alerts.overrides.items():
        if known and stream not in known:
            yield f"overrides.{stream}: {absent}"
        for name, fields in changes.items():
            if name not in alerts.rules:
                yield f"overrides.{stream}.{name}: there is no such rule"
            elif name in drifts or fields.get("kind") == "detector_drift":
                yield f"overrides.{stream}.{name}: {_OF_ALL}"


def _faults(error: ValidationError, source: str, over: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(where it was said, path and what) of each."""
    lines = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        elif item["type"] == "missing":
            message = "is required"
        place = variable_of(item["loc"], over) or source
        lines.append((place, f"{path}: {message}" if path else message))
    return lines
