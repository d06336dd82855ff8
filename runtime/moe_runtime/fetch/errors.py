"""Why a checkpoint was not fetched, as one sentence."""

from moe_runtime.errors import RuntimeFailure


class FetchError(RuntimeFailure):
    """The checkpoint cannot be fetched."""


class Denied(FetchError):  # noqa: N818  # the base says that it is an error
    """The source refuses access: HTTP 401 or 403."""

    word = "SourceDenied"


class Missing(FetchError):  # noqa: N818  # likewise
    """The source has no such thing."""

    word = "SourceMissing"


class DiskFull(FetchError):  # noqa: N818  # likewise
    """The checkpoint does not fit where it is fetched to."""

    word = "DiskFull"


class Transient(FetchError):  # noqa: N818  # likewise
    """It could not be fetched now; the same request may succeed a little later."""

    word = "SourceUnreachable"


def of_status(status: int) -> type[FetchError]:
    """What an HTTP status that is not going to pass says of the source."""
    if status in (401, 403):
        return Denied
    return Missing if status in (404, 410) else FetchError
