"""Inception Score: how sure the extractor's classifier is of each image, and how many classes it sees."""

from src.metrics.base import Metric
from src.metrics.statistics import Features


class InceptionScore(Metric):
    """exp E KL(p(y|x) || p(y)) (arXiv:1606.03498), over all images at once; real images are not asked for.

    The paper averages ten parts of 5,000, which is lower; torchmetrics shuffles without a seed. The error comes from
    the jackknife.

    Args:
        extractor: its own classifier gives p(y|x); see `Metric`.
        split: without effect.

    Raises:
        ValueError: an extractor without classes.
    """

    figure_names = ("inception-score",)
    higher_is_better = True
    of_classes = True

    def values(self, real: Features, fake: Features) -> list[float]:
        log_p = fake.logits.double().log_softmax(1)
        p = log_p.exp()
        log_marginal = p.mean(0).log()
        return [(p * (log_p - log_marginal)).nan_to_num(0).sum(1).mean().exp().item()]
