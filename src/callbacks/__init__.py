"""What happens beside training: checkpoints, pictures, curves, the doctor, loggers.

Add here a Lightning `Callback` or `Logger`.
Imports `images` and `engine`; only the command line imports it.
"""
