"""The exception tree. Library errors are translated into it at the edge that calls the library, chained.

StreamWatchError
├── ConfigError              exit 2: the configuration, an argument or an environment variable is unusable
│   └── UrlNotAllowed        the source URL's scheme, host or address is not on the allow-list
│       └── HostUnknown      its host does not resolve, now: whether it is on the list cannot be said
├── WeightsError             exit 4
│   ├── WeightsMissing
│   ├── WeightsCorrupt       sha256, keys, shapes, crop version
│   └── WeightsUnavailable   cannot be fetched (host out of reach, refused, no space)
├── DeviceError              exit 4: the asked-for device is not there, or failed
├── SourceError              a stream's state, never the process's end; `reason` is a FailureReason
│   ├── SourceUnavailable    could not be opened
│   ├── StreamEnded          the peer ended the stream
│   └── DecodeFailed         too much of it could not be decoded
├── Expired                  the deadline passed before the work was begun
├── Overloaded               a bounded queue is full and may not drop
├── MediaError               a recorded file (scan) that cannot be read: exit 3 at the end
├── StorageError             the database or a file of ours cannot be read or written
│   └── RecordRefused        the database works, and refuses this record for what it holds: again would not help
├── DeliveryFailed           one attempt of one sink; `retryable` says whether another may help
├── EvidenceInvalid          a hash, the chain or the signature does not hold: exit 5
├── NotFound / Conflict      what was asked for is not there, or is there already
└── ServerError              exit 6: the address or the evidence directory is in use, or TLS files are unusable
"""

from __future__ import annotations

from streamwatch.domain import FailureReason
from streamwatch.redact import redact


class StreamWatchError(Exception):
    """Base of all errors that StreamWatch raises on purpose; its text is fit for a user and holds no secret."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class ConfigError(StreamWatchError):
    """One line for each fault, each beginning with the path of the field."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(redact(fault) for fault in faults)


class UrlNotAllowed(ConfigError):
    """The source URL is refused by the allow-list of schemes and hosts, on its resolved address."""


class HostUnknown(UrlNotAllowed):
    pass


class WeightsError(StreamWatchError):
    exit_code = 4


class WeightsMissing(WeightsError):
    pass


class WeightsCorrupt(WeightsError):
    pass


class WeightsUnavailable(WeightsError):
    pass


class DeviceError(StreamWatchError):
    exit_code = 4


class SourceError(StreamWatchError):
    """Why a source's run ended. The supervisor reads `reason` to choose the delay before the next attempt."""

    def __init__(self, message: str, reason: FailureReason) -> None:
        super().__init__(message)
        self.reason = reason


class SourceUnavailable(SourceError):
    pass


class StreamEnded(SourceError):
    def __init__(self, message: str, reason: FailureReason = FailureReason.ENDED) -> None:
        super().__init__(message, reason)


class DecodeFailed(SourceError):
    def __init__(self, message: str, reason: FailureReason = FailureReason.DECODE_ERRORS) -> None:
        super().__init__(message, reason)


class Expired(StreamWatchError):
    pass


class Overloaded(StreamWatchError):
    pass


class MediaError(StreamWatchError):
    exit_code = 3


class StorageError(StreamWatchError):
    pass


class RecordRefused(StorageError):
    pass


class DeliveryFailed(StreamWatchError):
    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class EvidenceInvalid(StreamWatchError):
    exit_code = 5


class NotFound(StreamWatchError):
    pass


class Conflict(StreamWatchError):
    pass


class ServerError(StreamWatchError):
    exit_code = 6
