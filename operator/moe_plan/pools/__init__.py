"""Prefill and decode on separate pools of GPUs: searched, and held beside one pool that does both. An estimate only."""
