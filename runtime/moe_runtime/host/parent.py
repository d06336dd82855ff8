"""The parent of a host's ranks, as a process: it holds the lifeline to the frontend, then raises the ranks.

    python -m moe_runtime.host.parent ORDERS        (see messages.Orders; RankHost starts it)

Standard input is the lifeline: when the frontend's end closes, the kernel kills this process, even in the middle of
an import, and then the ranks, whose parent it is. Standard output carries a messages.Report when the ranks cannot go
on.
"""

import fcntl
import gc
import os
import select
import sys

from moe_plan.plan import Plan
from moe_runtime.errors import RuntimeFailure
from moe_runtime.host.channel import Channel, Extent
from moe_runtime.host.messages import Orders, Report
from moe_runtime.host.tier import Tier
from moe_runtime.logs import Speaker, log_lines


def main(orders: Orders) -> Report | None:
    """Run the ranks until SIGTERM, or until one of them ends: then the report of it."""
    _hold_lifeline()
    log_lines(Speaker.pod(os.environ))
    with os.fdopen(orders.plan_fd, "rb") as file:
        plan = Plan.model_validate_json(file.read())
    tier = Tier.of(plan, orders.slot, orders.device)
    channel = Channel(orders.channel_fd, Extent.of(plan, tier.slots, tier.members))
    os.close(orders.channel_fd)
    gc.disable()  # importing torch makes much and drops little: a quarter of its time went into looking for garbage
    from moe_runtime.host.family import Family, prepare  # noqa: PLC0415  # imports torch, which takes seconds

    gc.freeze()
    gc.enable()
    try:
        seat = prepare(orders, plan, tier, channel)
    except RuntimeFailure as failure:
        return Report("failed", None, str(failure))
    return Family(seat).watch()


def _hold_lifeline() -> None:
    """Die when the other end of standard input closes: the default action of SIGIO (fcntl(2), O_ASYNC)."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(0)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        sys.exit(1)


if __name__ == "__main__":
    end = main(Orders.from_json(sys.argv[1]))
    if end is not None:
        sys.stdout.write(end.to_json() + "\n")
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if end is None else 1)  # tearing torch down takes a while, and there is nothing to save
