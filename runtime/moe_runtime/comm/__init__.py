"""Collectives of a rank, behind one small interface: shared memory on a host, gloo or NCCL across hosts."""
