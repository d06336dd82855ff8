"""Pages of one shard's KV cache: reserved when a request is admitted, handed out as its tokens grow.

A reservation is a promise of numbers, not of particular pages; since promises never exceed the pages there are, a
running request can always grow and none is ever put out again.
"""

from moe_plan.plan import Plan
from moe_runtime.step import PAGE_TOKENS


class PageAllocator:
    """Hands out the lowest page never used, or the page freed last, so that untouched memory stays untouched."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reserved = 0
        self._fresh = 0
        self._freed: list[int] = []

    @property
    def used(self) -> int:
        """Pages that requests hold now."""
        return self._fresh - len(self._freed)

    def fits(self, pages: int) -> bool:
        """Whether so many more pages can be promised."""
        return self.reserved + pages <= self.total

    def reserve(self, pages: int) -> None:
        """Promise so many pages to a request."""
        assert self.fits(pages), f"{pages} pages promised of {self.total - self.reserved}"
        self.reserved += pages

    def take(self) -> int:
        """One page, out of a promise made before."""
        if self._freed:
            return self._freed.pop()
        assert self._fresh < self.reserved, "a page was taken that nobody promised"
        self._fresh += 1
        return self._fresh - 1

    def release(self, pages: list[int], reserved: int) -> None:
        """Return a request's pages and its promise."""
        self._freed.extend(pages)
        self.reserved -= reserved


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_TOKENS)


def pages_per_shard(plan: Plan) -> int:
    """Pages of one shard's KV cache: what the plan leaves room for, and never less than its longest request."""
    return max(plan.kv_cache.tokens_per_shard // PAGE_TOKENS, pages_for(plan.limits.max_model_length))
