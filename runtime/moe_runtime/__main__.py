"""`python -m moe_runtime`."""

import sys

from moe_runtime.cli import main, prepare_process

prepare_process()
sys.exit(main(sys.argv[1:]))
