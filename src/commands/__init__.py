"""What the command line does besides fitting: refusals, what a checkpoint remembers, score, compare, study, pictures.

Add here a function whose arguments are its options (or which reads its `args`), and name it in `functions.py`.
Imports everything below `gan.py`; only the command line imports it.
"""
