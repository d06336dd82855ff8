"""What the runtime raises for a person to act upon: the text is one sentence, shown as it is.

`word` is what the operator takes for the cause where a container ends of it; its docs have a section for each.
"""

from typing import ClassVar


class RuntimeFailure(Exception):  # noqa: N818  # the base of a tree; its leaves say what failed
    """Base of what moe_runtime raises for a person to act upon."""

    word: ClassVar[str] = ""


class CheckpointError(RuntimeFailure):
    """The checkpoint cannot be served: a file or tensor is missing, extra, corrupt, or of another shape."""

    word = "CheckpointUnusable"


class UnsupportedModel(RuntimeFailure):  # what it is says more than an Error suffix
    """The model asks for something that the runtime does not execute."""


class CommunicationTimeout(RuntimeFailure):  # likewise
    """A rank waited for another longer than any step takes."""


class RankLost(RuntimeFailure):  # likewise
    """A rank died or stopped answering; `rank` is None where the whole host process did."""

    word = "RanksLost"

    def __init__(self, rank: int | None, cause: str) -> None:
        self.rank = rank
        self.cause = cause
        super().__init__(f"rank {rank} {cause}" if rank is not None else cause)


class RanksCut(RankLost):
    """Ranks of one slot ended since the connection to another broke; what became of the other says more."""


class SlotGone(RankLost):
    """A slot's agent is not there: it has not come yet, or has gone. It may come again."""

    def __init__(self, cause: str) -> None:
        super().__init__(None, cause)


class RanksFailed(RuntimeFailure):  # likewise
    """The ranks cannot serve what they were started with: a bad checkpoint, an unknown model, too little memory."""

    word = "RanksFailed"


class SlotLost(RuntimeFailure):  # likewise
    """The connection to another slot broke; that slot, or who watches it, knows why."""

    def __init__(self, slot: int, cause: str) -> None:
        self.slot = slot
        super().__init__(cause)


class ProtocolError(RuntimeFailure):
    """Another slot sent what this one does not understand."""
