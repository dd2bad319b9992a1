"""Generative adversarial networks on PyTorch Lightning; run as `python -m src`."""

__version__ = "0.1.0"
