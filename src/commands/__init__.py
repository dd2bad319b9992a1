"""What the command line does besides fitting: what a checkpoint remembers, refusals, score, compare, export.

Add here a function whose arguments are its options, and name it in `FUNCTIONS` of `cli.py`.
Imports everything below `gan.py`; only the command line imports it.
"""
