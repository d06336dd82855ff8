"""A communicator that counts: time in communication, time between dispatch and combine, rows of each expert."""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moe_runtime.comm.base import Communicator, Dispatched
from moe_runtime.host.figures import COMMUNICATION_NS, EXPERTS_NS, STEP_NS

_TIMES: Final = (STEP_NS, COMMUNICATION_NS, EXPERTS_NS)
assert _TIMES == (0, 1, 2)


class Measured:
    """Passes every call on to a communicator. The counters are shared memory that only this rank writes to."""

    def __init__(
        self,
        communicator: Communicator,
        figures: NDArray[np.int64],
        expert_rows: NDArray[np.int64] | None,
        moe_layers: Sequence[int],
    ) -> None:
        """Count into shared arrays.

        `figures` are the rank's, as host/figures.py has them; `expert_rows` [layers of the stage, experts], None where not
        counted; `moe_layers` are the positions within the stage of the layers that dispatch.
        """
        self._inner = communicator
        self._figures = figures
        self._expert_rows = expert_rows
        self._moe_layers = moe_layers
        self._dispatched = 0
        self._arrived_ns = 0
        self.spent_ns = 0
        self.experts_ns = 0

    def flush(self, step_ns: int) -> None:
        """Publish what a step took."""
        self._figures[: len(_TIMES)] += (step_ns, self.spent_ns, self.experts_ns)
        self.spent_ns = self.experts_ns = 0

    def begin(self, tokens: Sequence[int]) -> None:
        """See Communicator."""
        self._dispatched = 0
        started = perf_counter_ns()
        self._inner.begin(tokens)
        self.spent_ns += perf_counter_ns() - started

    def end(self) -> None:
        """See Communicator."""
        self._inner.end()

    def all_reduce(self, x: Tensor) -> Tensor:
        """See Communicator."""
        started = perf_counter_ns()
        x = self._inner.all_reduce(x)
        self.spent_ns += perf_counter_ns() - started
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """See Communicator."""
        started = perf_counter_ns()
        x = self._inner.all_gather(x)
        self.spent_ns += perf_counter_ns() - started
        return x

    def dispatch(self, hidden: Tensor, experts: Tensor) -> Dispatched:
        """See Communicator."""
        started = perf_counter_ns()
        dispatched = self._inner.dispatch(hidden, experts)
        self._arrived_ns = perf_counter_ns()
        self.spent_ns += self._arrived_ns - started
        if self._expert_rows is not None and len(dispatched.hidden):
            self._expert_rows[self._moe_layers[self._dispatched]] += dispatched.counts
        self._dispatched += 1
        return dispatched

    def combine(self, output: Tensor, dispatched: Dispatched, weights: Tensor) -> Tensor:
        """See Communicator."""
        started = perf_counter_ns()
        self.experts_ns += started - self._arrived_ns
        x = self._inner.combine(output, dispatched, weights)
        self.spent_ns += perf_counter_ns() - started
        return x

    def send(self, x: Tensor) -> None:
        """See Communicator."""
        started = perf_counter_ns()
        self._inner.send(x)
        self.spent_ns += perf_counter_ns() - started

    def receive(self, tokens: int) -> Tensor:
        """See Communicator."""
        started = perf_counter_ns()
        x = self._inner.receive(tokens)
        self.spent_ns += perf_counter_ns() - started
        return x

    def close(self) -> None:
        """See Communicator."""
        self._inner.close()
