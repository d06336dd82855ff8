"""Why a checkpoint was not fetched, as one sentence."""

from moe_runtime.errors import RuntimeFailure


class FetchError(RuntimeFailure):
    """The checkpoint cannot be fetched."""


class Transient(FetchError):  # noqa: N818  # the base says that it is an error
    """It could not be fetched now; the same request may succeed a little later."""
