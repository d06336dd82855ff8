"""The last word of a container: why it ended, where the kubelet reads it and whence the operator takes the cause.

One line, "WORD: sentence": the word is that of the failure's class, of a set that the operator knows, or left out.
https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
"""

import contextlib
import os
from pathlib import Path
from typing import Final

LOG = Path("/dev/termination-log")
"""Where a container's terminationMessagePath is unless a pod says otherwise."""
MOST_BYTES: Final = 4096
"""What a kubelet reads of it."""
IN_A_POD: Final = "POD_NAME"
"""The operator gives its pods this variable; elsewhere nobody reads the file."""


def last_word(word: str, sentence: str) -> None:
    """Leave why this container ends."""
    if not os.environ.get(IN_A_POD) or not LOG.exists():
        return
    line = " ".join(spoken(word, sentence).split())
    with contextlib.suppress(OSError):  # the log of the container says the same
        LOG.write_bytes(line.encode()[:MOST_BYTES])


def spoken(word: str, sentence: str) -> str:
    """A sentence with the word of its failure, if it has one."""
    return f"{word}: {sentence}" if word else sentence
