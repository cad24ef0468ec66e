"""Tables of hyperparameters: which of them matter, and where validation is as good as at the best."""

from functools import lru_cache

import pandas as pd

from analysis.formatting import NONE, Table, as_text, label, with_notes
from analysis.hyperparameters.importance import Importances, importances
from analysis.hyperparameters.landscape import FlatRegion, Landscape, Span, landscape
from analysis.study import Study


@lru_cache(maxsize=32)
def cached_importances(study: Study, method: str) -> Importances:
    """Return the importances of a method, computed once for all forms of the report."""
    return importances(study, method)


@lru_cache(maxsize=32)
def cached_landscape(study: Study, method: str) -> Landscape:
    """Return the flat region of a method, computed once for all forms of the report."""
    return landscape(study, method)


def importance(study: Study) -> Table:
    """How much each hyperparameter of a method matters."""
    title = "Importance of hyperparameters (validation split)"
    method_importances = [cached_importances(study, method) for method in study.methods]
    rows = [
        {
            "Method": label(one.method),
            "Hyperparameter": one.parameter,
            "Importance [95 %]": f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]",
            "Computed from": one.basis,
        }
        for method in method_importances
        for one in method.parameters
    ]
    if not rows:
        return title, ""
    note = (
        "The share of the variance of validation over a method's whole ranges that a hyperparameter explains by "
        "itself (fANOVA; Hutter et al. 2014), all repeats together; intervals over bootstrapped trials. Importances "
        "at an early epoch speak of learning fast, not of the end."
    )
    missing = [
        f"**{label(one.method)}**: {one.reason}." for one in method_importances if one.reason
    ]
    return title, with_notes(pd.DataFrame(rows), note, items=missing)


def robust(study: Study) -> Table:
    """Return the flat region around each method's best, and a setting in its middle."""
    title = "Flat region and robust setting (validation split)"
    landscapes = [cached_landscape(study, method) for method in study.methods]
    rows = [
        {
            "Method": label(one.method),
            "Hyperparameter": span.parameter,
            "Flat region": _region_text(span),
            "Alone": _alone_text(span),
            "Robust setting": as_text(span.robust),
        }
        for one in landscapes
        if one.region
        for span in one.region.spans
    ]
    if not rows:
        return title, ""
    note = (
        "Where validation, as a Gaussian process predicts it from all finished trials, is within one standard "
        "error of its best (or within the margin, if that is more). Alone: how far one hyperparameter may move "
        "while the others stay at the robust setting. A prediction of validation on this split, which is higher "
        "than what such a student reaches on test; not a trained student."
    )
    sentences = [_sentence(one.region) for one in landscapes if one.region]
    missing = [f"**{label(one.method)}**: {one.reason}." for one in landscapes if one.reason]
    return title, with_notes(pd.DataFrame(rows), note, items=[*sentences, *missing])


def _region_text(span: Span) -> str:
    if span.choices:
        return ", ".join(map(str, span.choices))
    return f"{as_text(span.low)} .. {as_text(span.high)}"


def _alone_text(span: Span) -> str:
    if span.alone_low is None:
        return NONE
    return f"{as_text(span.alone_low)} .. {as_text(span.alone_high)}"


def _sentence(region: FlatRegion) -> str:
    return (
        f"**{label(region.method)}**: predicted {region.value * 100:.2f} ± {region.sd * 100:.2f} % at the robust "
        f"setting, {region.best * 100:.2f} ± {region.best_sd * 100:.2f} % at the best (mean ± standard error, "
        f"n = {region.n} trials); the prediction explains {region.explained * 100:.0f} % of the variance of trials "
        "that were left out."
    )
