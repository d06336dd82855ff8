"""What a layout's speed will be: roofline by kernel, latency and bandwidth by tier, added up to TTFT and TPOT."""

from moe_plan.cost.step import predict

__all__ = ["predict"]
