"""The admission webhook: `kubectl apply` prints the planner's verdict before anything is stored.

kopf's own webhook server is not used: it refuses reviews above 1 MiB (an update of an inline config.json carries it
twice), fixes the timeout at 30 s, knows no matchConditions, has no deadline, and renews a certificate by closing its
port, while failurePolicy Ignore would let anything pass.
"""

from moe_operator.webhook.service import run
from moe_operator.webhook.settings import Settings

__all__ = ["Settings", "run"]
