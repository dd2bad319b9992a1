"""The players: one family a file, its Generator and Discriminator together.

Add here a file with subclasses of those in `base.py`; `layers.py` has what two families share.
Imports `images`; the step and the objectives know `base.py` alone.
"""
