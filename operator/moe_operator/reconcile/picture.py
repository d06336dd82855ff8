"""What the status is drawn from: one decision in full."""

from dataclasses import dataclass

from moe_operator.reconcile.lifecycle import Outcome
from moe_operator.reconcile.model import Object, View
from moe_operator.reconcile.revisions import Revision
from moe_plan.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Picture:
    """A decision before it is told."""

    view: View
    current: Revision | None
    """Of today's spec; None where that has no plan."""
    main: Revision | None
    """That speaks for the deployment: today's or, where that has none, one that still runs."""
    refusal: ManifestError | None
    """Why today's spec has no plan."""
    gangless: ManifestError | None
    """What the spec asks of a gang scheduler that the cluster has not."""
    outcomes: tuple[Outcome, ...]
    """By index."""
    taken: tuple[Object, ...]
    """Foreign objects with names of children."""
    unfinished: bool
    """Whether there is anything to write."""
    paused: bool

    @property
    def generation(self) -> int:
        """Generation of the spec that was decided upon."""
        return int(self.view.deployment["metadata"].get("generation") or 0)

    @property
    def desired(self) -> int:
        """Replicas asked for; while the spec is not valid, those that there are."""
        if self.current is not None:
            return self.current.spec.replicas
        return sum(outcome.replica.record is not None for outcome in self.outcomes)

    @property
    def asked(self) -> int:
        """Replicas that the spec asks for, whether it is valid or not."""
        written = (self.view.deployment.get("spec") or {}).get("replicas", 1)
        return written if self.current is None and type(written) is int and written > 0 else self.desired

    @property
    def wanted(self) -> tuple[Outcome, ...]:
        """Replicas that count, without those beyond the desired count."""
        if self.current is None:
            return self.outcomes
        return tuple(outcome for outcome in self.outcomes if outcome.replica.index < self.desired)

    @property
    def waiting(self) -> bool:
        """Whether replicas are left for the next decision."""
        held_up = self.taken or self.gangless is not None or self.paused or self.view.refused is not None
        if self.current is None or held_up:
            return False
        return len(self.wanted) < self.desired

    @property
    def serving(self) -> int:
        """Wanted replicas whose endpoint answers."""
        return sum(outcome.serving for outcome in self.wanted)

    @property
    def outdated(self) -> int:
        """Wanted replicas at or above the partition that do not run today's plan yet."""
        if self.current is None:
            return 0
        partition, plan = self.current.spec.rollout.partition, self.current.hash
        records = [(o.replica.index, o.replica.record) for o in self.wanted]
        return sum(index >= partition and record is not None and record.plan != plan for index, record in records)
