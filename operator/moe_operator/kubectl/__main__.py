"""`python -m moe_operator.kubectl`: the plugin without its entry point."""

from moe_operator.kubectl.app import main

main()
