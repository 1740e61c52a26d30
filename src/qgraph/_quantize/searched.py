"""What a search for ranges, or for ranges and smoothing, came to: kept with them and told."""

from __future__ import annotations

from typing import Literal

from qgraph._graph.io.documents import Part
from qgraph._quantize.scheme import Calibration, Scheme

_AGAIN = "; with more time, the same command searches further"
OUT_OF_TIME = f"the time budget left no time for it{_AGAIN}"


class SearchedRanges(Part):
    """What a search for ranges, or for ranges and smoothing, came to. `method` clips all ranges,
    None: they are the extremes. `strengths`: of smoothing, from the least; `smoothed`, `rotated`:
    tensors. `plain`, `taken`: by `metric`, of everything quantized, of samples that ranges do not
    know; None where it was not measured. `why_not`: why nothing was searched. `cut_short`: whether
    a time budget ended the search: `time_budget`, in seconds, of which it had a share.
    """

    method: Calibration | None = None
    strengths: tuple[float, ...] = ()
    smoothed: int = 0
    rotated: int = 0
    metric: Literal["sqnr_db"] = "sqnr_db"
    plain: float | None = None
    taken: float | None = None
    why_not: str | None = None
    cut_short: bool | None = None
    time_budget: float | None = None

    def goes_on(self, time_budget: float | None) -> bool:
        """Return whether the search was cut short, and comes further within this budget, in s."""
        more = time_budget is None or time_budget > (self.time_budget or 0)
        return bool(self.cut_short) and more

    def in_words(self, scheme: Scheme) -> str:
        """Return a line that says what was taken, and what for."""
        cut = self.cut_short and self.why_not is None
        early = f"The time budget ended the search early{_AGAIN}." if cut else ""
        # of clips or smoothing searched alone it knows only whether time was up
        told = scheme.calibrate is Calibration.AUTO or self.why_not is not None
        return " ".join(filter(None, (self._taken(scheme) if told else "", early)))

    def _taken(self, scheme: Scheme) -> str:
        what = "Ranges and smoothing" if scheme.searches_together else "Ranges"
        method = f"{self.method} throughout" if self.method is not None else ""
        rotated = f"{_tensors(self.rotated)} rotated" if self.rotated else ""
        if self.why_not is not None:
            return f"{what}: plain, as nothing was searched for: {self.why_not}."
        taken = ", ".join(filter(None, (method, self._smoothing(), rotated)))
        whole = f"everything in {scheme.name.upper()}"
        if self.plain is None or self.taken is None:
            return f"{what}: {taken or 'plain'}."
        plain = f"{self.plain:.1f} dB"
        if not taken:
            return f"{what}: plain, nothing was better; {whole} {plain}."
        found = f"{what}: {taken}; {whole} {self.taken:.1f} dB"
        if round(self.taken, 1) > round(self.plain, 1):
            return f"{found} instead of {plain}."
        return f"{found}, plain {plain}; better on average over several sets of nodes."

    def _smoothing(self) -> str:
        if not self.strengths:
            return ""
        first, last = f"{self.strengths[0]:g}", f"{self.strengths[-1]:g}"
        strength = first if first == last else f"{first} to {last}"
        return f"smoothing {strength} of {_tensors(self.smoothed)}"


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' * (count != 1)}"
