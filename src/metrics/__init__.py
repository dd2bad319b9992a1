"""Figures of merit: extractors of features, their statistics, the figures and their table.

Add here a `Metric` that compares features, a `Score` of anything else, or an `Extractor`.
Imports `images` and `engine`; the evaluation and the command line may import it.
"""
