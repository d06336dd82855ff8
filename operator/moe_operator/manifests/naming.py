"""Names of children: readable where they fit into a DNS label, cut and hashed where they do not."""

import hashlib

LONGEST = 63
"""Characters of a DNS label (RFC 1123): children are host names, services and label values."""
HASH = 8


def child_name(name: str, *parts: object) -> str:
    """The deployment's name and the parts, joined by hyphens.

    Where that is too long, the deployment's name is cut and a digest of the whole stands between it and the parts, so
    that two long names do not meet.
    """
    whole = "-".join((name, *map(str, parts)))
    if len(whole) <= LONGEST:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:HASH]
    tail = "-".join((digest, *map(str, parts)))
    assert len(tail) < LONGEST, "parts of a child's name are short"
    return f"{name[: LONGEST - 1 - len(tail)].rstrip('-')}-{tail}"
