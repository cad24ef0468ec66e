"""Verdicts, p values and differences as words within a sentence."""

from analysis.comparison import stats
from analysis.comparison.stats import Estimate, Verdict
from analysis.formatting import count_text, gap


def words(verdict: Verdict | None, margin: float) -> str:
    """Return a verdict as it stands in a table.

    >>> words(Verdict(label="no difference", p=0.4, p_equivalence=0.01, repeats_needed=None), 0.005)
    'no difference larger than 0.5 points'
    """
    if verdict is None:
        return ""
    if verdict.label == stats.TOO_FEW:
        return "no verdict: too few repeats"
    if verdict.label == stats.NO_DIFFERENCE:
        return f"no difference larger than {margin_words(margin)}"
    return verdict.label.replace("less than m", f"less than {margin_words(margin)}")


def margin_words(margin: float) -> str:
    """Return a margin in points.

    >>> margin_words(0.005), margin_words(0.01)
    ('0.5 points', '1 point')
    """
    return f"{margin * 100:.4g} point{'' if margin == 0.01 else 's'}"


def p_words(value: float | None) -> str:
    """Return a p value.

    >>> p_words(0.0123), p_words(0.00001), p_words(None)
    ('p = 0.012', 'p < 0.001', 'p unknown')
    """
    if value is None:
        return "p unknown"
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def points_words(difference: Estimate, noun: str, *, short: bool = False) -> str:
    """Return a difference in percentage points with its n; `short` leaves the interval to the tables."""
    if short:
        return f"{difference.mean * 100:+.1f} (n = {count_text(difference.n, noun)})"
    return f"{gap(difference, of=noun)} percentage points"


def percent_words(share: float) -> str:
    """Return a share.

    >>> percent_words(0.005)
    '0.5 %'
    """
    return f"{share * 100:.3g} %"
