"""What the command line does besides fitting: what a checkpoint remembers, refusals, score, compare, study, list, ...

Add here a function whose arguments are its options (or which reads its `args`), and name it in `FUNCTIONS` of `cli.py`.
Imports everything below `gan.py`; only the command line imports it.
"""
