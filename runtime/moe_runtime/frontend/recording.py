"""Logits kept beside the tokens of `generate`: what a layout computed, to hold against another implementation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from moe_plan.plan import Plan
from moe_runtime.frontend.schedule import Progress
from moe_runtime.host.messages import Device
from moe_runtime.host.rank_host import RankHost
from moe_runtime.step import Sampled, Step

Recorded = dict[int, list[NDArray[np.float32]]]
"""Logits of each generated position, `[vocabulary]`, by request."""


class Recording(RankHost):
    """Ranks whose logits are kept in `recorded`."""

    def __init__(self, plan: Plan, checkpoint: Path | None, device: Device, recorded: Recorded) -> None:
        super().__init__(plan, checkpoint, device, keep="logits")
        self._recorded = recorded

    def run_step(self, step: Step) -> list[Sampled]:
        sampled = super().run_step(step)
        for one, logits in zip(sampled, self.logits(), strict=True):
            self._recorded.setdefault(one.request, []).append(logits)
        return sampled


def logits_file(answers: Sequence[Progress], recorded: Recorded) -> bytes:
    """A safetensors file with a tensor a prompt, named by its place: `[generated, vocabulary]`, float32."""
    return save({str(i): np.stack(recorded[answer.request.number]) for i, answer in enumerate(answers)})
