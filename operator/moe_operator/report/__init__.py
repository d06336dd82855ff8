"""From a plan to documents that people read: strategy, implementation guide, page and the script that checks them.

Pure: `gather` works out what the documents tell, `strategy`, `guide` and `page` write them; who calls writes files and
runs `verify.py`. Imported by `moe report` alone.
"""
