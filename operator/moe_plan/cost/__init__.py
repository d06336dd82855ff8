"""What a layout's speed will be: kernels and collectives of a step, steps of a closed loop, TTFT, TPOT and tokens/s."""

from moe_plan.cost.predict import predict

__all__ = ["predict"]
