"""An A/A space: both methods beside the baseline are the baseline under another name."""

from dataclasses import replace

from tune_kd.space import loader

_DIGITS, _ = loader.load("digits_kd")
_BASELINE = _DIGITS.methods["no_kd"]
# as many trials of a method and repeat as the space of the demonstration has
_EACH = _DIGITS.trials // len(_DIGITS.methods)

SPACE = replace(
    _DIGITS,
    name="twins_kd",
    methods={"no_kd": _BASELINE, "twin": _BASELINE},
    trials=2 * _EACH,
)
