"""`python -m moe_runtime`."""

import sys

from moe_runtime.cli import main

sys.exit(main(sys.argv[1:]))
