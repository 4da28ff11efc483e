"""Each claim beside what was measured here: reproduced, contradicted, or not measurable and why."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pytest_quantgate.gguf.formats import TENSOR_TYPES, find_format
from pytest_quantgate.reports.claims.evidence import Evidence
from pytest_quantgate.reports.claims.schema import Claim, ClaimsFile, Kind
from pytest_quantgate.results.record import CellRecord


class Outcome(enum.Enum):
    """What is said of a claim."""

    REPRODUCED = "reproduced"
    CONTRADICTED = "contradicted"
    NOT_MEASURABLE = "not measurable here"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim and what is said of it; ``measured`` is empty where nothing was."""

    claim: Claim
    outcome: Outcome
    measured: str
    why: str


def judge_claims(claims: ClaimsFile, evidence: Evidence) -> tuple[Finding, ...]:
    """Judge every claim of a file."""
    return tuple(_JUDGES[claim.kind](claim, evidence) for claim in claims.claims)


def _compared(claim: Claim, value: float, measured: str, why: str) -> Finding:
    holds = claim.holds(value)
    outcome = Outcome.REPRODUCED if holds else Outcome.CONTRADICTED
    return Finding(claim=claim, outcome=outcome, measured=measured, why=why)


def _open(claim: Claim, why: str, measured: str = "") -> Finding:
    return Finding(claim=claim, outcome=Outcome.NOT_MEASURABLE, measured=measured, why=why)


def _off(claim: Claim, value: float) -> str:
    assert claim.low is not None
    return f"published figure off by {100 * (claim.low / value - 1):+.1f} %".replace("-", "−")


def _size(claim: Claim, evidence: Evidence) -> Finding:
    known = evidence.file_bytes(str(claim.model), str(claim.format))
    if known is None:
        return _open(claim, "no size measured: run the profile sizes and give its record")
    return _compared(claim, known / 1e9, f"{known:,} bytes", _off(claim, known / 1e9))


def _is_real(cell: CellRecord) -> bool:
    return not cell.is_miniature and not cell.is_requantized


def _perplexity(claim: Claim, evidence: Evidence) -> Finding:
    for cell in evidence.cells(claim.model, claim.format):
        if cell.ppl is not None and math.isfinite(cell.ppl) and "wikitext" in cell.text:
            return _compared(
                claim,
                cell.ppl,
                f"PPL {cell.ppl:.4f}",
                f"{cell.chunks.n_tokens} tokens of {cell.text}",
            )
    return _open(
        claim,
        f"no such model: place its file as [tool.quantgate.models.{claim.model}] with WikiText-2"
        " as a text named wikitext2, and give the record",
    )


def _on_hardware(claim: Claim, hardware: str) -> bool:
    return claim.device is None or claim.device.lower() in hardware.lower()


def _speed(claim: Claim, evidence: Evidence) -> Finding:
    known = list(evidence.speeds(claim.model, claim.format))
    for speed in known:
        if _on_hardware(claim, speed.hardware):
            rate = speed.tokens_per_s
            return _compared(claim, rate, f"{rate:.1f} tokens/s", speed.hardware)
    elsewhere = "; ".join(f"{one.tokens_per_s:.1f} tokens/s on {one.hardware}" for one in known)
    return _open(claim, f"no such hardware: needs {_article(claim)}", elsewhere)


def _article(claim: Claim) -> str:
    name = str(claim.device)
    return f"an {name}" if name.startswith("RTX") else f"a {name}"


def _speed_ratio(claim: Claim, evidence: Evidence) -> Finding:
    known = list(evidence.speed_ratios(claim.model, str(claim.format), str(claim.other_format)))
    figures = "; ".join(
        f"{_percent(ratio)} on {one.hardware} ({one.cell.model})" for one, ratio in known
    )
    fitting = [ratio for one, ratio in known if _on_hardware(claim, one.hardware)]
    if not fitting:
        needs = _article(claim) if claim.device else "a record with speeds of both formats"
        return _open(claim, f"no such hardware: needs {needs}" if claim.device else needs, figures)
    # A claim of all hardware falls with the first one that differs.
    outside = [ratio for ratio in fitting if not claim.holds(ratio)]
    return _compared(
        claim, outside[0] if outside else fitting[0], figures, "decoding, both measured"
    )


def _speed_order(claim: Claim, evidence: Evidence) -> Finding:
    known = list(evidence.speed_ratios(claim.model, str(claim.format), str(claim.other_format)))
    figures = "; ".join(
        f"{_percent(ratio)} on {one.hardware} ({one.cell.model})" for one, ratio in known
    )
    fitting = [ratio for one, ratio in known if _on_hardware(claim, one.hardware)]
    if not fitting:
        return _open(
            claim, f"advice for hardware that is not here: needs {_article(claim)}", figures
        )
    outcome = Outcome.REPRODUCED if min(fitting) > 0 else Outcome.CONTRADICTED
    return Finding(claim=claim, outcome=outcome, measured=figures, why="decoding, both measured")


def _experts(claim: Claim, evidence: Evidence) -> Finding:
    known = evidence.experts(str(claim.model))
    if known is None:
        return _open(claim, f"no shape of {claim.model} is known")
    of_layer, used = known
    value = of_layer if claim.kind == "experts" else used
    return _compared(
        claim, value, f"{value}", f"the architecture: {of_layer} a layer, {used} a token"
    )


def _domain_ppl(claim: Claim, evidence: Evidence) -> Finding:
    """Compare a rise of a domain's perplexity; a single expert has none."""
    domain = str(claim.domain)
    figures = []
    for cell in evidence.cells(None, claim.format):
        before = [
            other.ppl_by_domain.get(domain)
            for other in evidence.cells(cell.model, cell.reference)
            if other.is_reference and other.text_name == cell.text_name
        ]
        now = cell.ppl_by_domain.get(domain)
        if now is None or not before or before[0] is None or cell.imatrix is not None:
            continue
        rise = 100 * (now / before[0] - 1)
        if _is_real(cell) and claim.model in {None, cell.model}:
            return _compared(claim, rise, f"{_percent(rise)} ({cell.model})", f"PPL on {domain}")
        figures.append(f"{_percent(rise)} ({cell.model}, a miniature or requantized)")
    return _open(
        claim,
        "an expert has no perplexity of its own, each token passes several in every layer; a"
        f" domain has one, and needs one of the two models and a text with the domain {domain!r}",
        "; ".join(figures),
    )


def _imatrix_gain(claim: Claim, evidence: Evidence) -> Finding:
    """Compare a gain in perplexity; none is possible where the matrix changes no byte."""
    figures = []
    for plain, cell in evidence.with_and_without_imatrix(str(claim.format)):
        if plain.tensor_data_sha256 is None:
            continue
        if plain.tensor_data_sha256 == cell.tensor_data_sha256:
            return Finding(
                claim=claim,
                outcome=Outcome.CONTRADICTED,
                measured=f"0 % ({cell.model})",
                why="all tensors are the same, byte for byte, with and without a matrix: llama.cpp"
                " does not look at it for this type",
            )
        if plain.ppl is not None and cell.ppl is not None:
            gain = 100 * (1 - cell.ppl / plain.ppl)
            if _is_real(cell):
                return _compared(
                    claim, gain, f"{gain:.2f} % ({cell.model})", f"matrix {cell.imatrix}"
                )
            figures.append(f"{gain:.2f} % ({cell.model}, matrix {cell.imatrix})")
    return _open(
        claim,
        'needs one of the two models in this format with imatrices = ["none", …]; miniatures and'
        " requantized models show faults, not gains",
        "; ".join(figures),
    )


def _imatrix_domain(claim: Claim, evidence: Evidence) -> Finding:
    figures = [
        f"{_percent(100 * (cell.ppl / plain.ppl - 1))} ({cell.model}, matrix {cell.imatrix})"
        for plain, cell in evidence.with_and_without_imatrix(str(claim.format))
        if plain.ppl is not None and cell.ppl is not None
    ]
    return _open(
        claim,
        "the quality that is meant is not named; PPL with matrices of several domains needs one of"
        " the two models",
        "; ".join(figures),
    )


def _element_types(claim: Claim, evidence: Evidence) -> Finding:
    """Count the element types of a tensor: what a block's bytes leave room for beside a scale."""
    del evidence
    file_type = find_format(str(claim.format)).file_type
    kind = TENSOR_TYPES[file_type.main_type]
    bits, rest = divmod(8 * kind.block_bytes, kind.block_elements)
    types = 1 if rest == 8 else 2
    return _compared(
        claim,
        types,
        f"{types}",
        f"a block of {kind.name} is {kind.block_elements} elements of {bits} bits and a scale of"
        f" {rest} bits, {kind.block_bytes} bytes; the file's other tensors are of other types",
    )


def _ppl_order(claim: Claim, evidence: Evidence) -> Finding:
    figures = []
    for cell in evidence.cells(claim.model, claim.format):
        for other in evidence.cells(cell.model, claim.other_format):
            if cell.ppl is None or other.ppl is None or other.text_name != cell.text_name:
                continue
            change = 100 * (cell.ppl / other.ppl - 1)
            matrix = "" if cell.imatrix is None else f", matrix {cell.imatrix}"
            if _is_real(cell):
                outcome = Outcome.REPRODUCED if change < 0 else Outcome.CONTRADICTED
                measured = f"PPL {_percent(change)} ({cell.model}{matrix})"
                return Finding(claim=claim, outcome=outcome, measured=measured, why=cell.text)
            if other.imatrix is None:
                figures.append(f"PPL {_percent(change)} ({cell.model}{matrix})")
    return _open(
        claim,
        "advice: needs one of the two models in both formats; miniatures do not rank formats",
        "; ".join(dict.fromkeys(figures)),
    )


def _practice(claim: Claim, evidence: Evidence) -> Finding:
    del evidence
    return _open(
        claim,
        "advice without a figure; this package judges so: every comparison is paired with the"
        " reference or the baseline on the same tokens",
    )


def _option(claim: Claim, evidence: Evidence) -> Finding:
    """Look for an option in the programs' own help."""
    texts = {
        name: text
        for name, text in evidence.help_texts.items()
        if claim.program in {None, name} and claim.option is not None
    }
    if not texts:
        needed = claim.program or "llama.cpp's programs"
        return _open(claim, f"needs {needed} in a folder given as --programs")
    naming = [name for name, text in texts.items() if str(claim.option) in text]
    programs = ", ".join(sorted(naming or texts))
    outcome = Outcome.REPRODUCED if naming else Outcome.CONTRADICTED
    why = "named in its help" if naming else "their --help does not name it"
    return Finding(claim=claim, outcome=outcome, measured=programs, why=why)


def _build(claim: Claim, evidence: Evidence) -> Finding:
    del evidence
    return _open(claim, "is about a build of llama.cpp, which no record covers")


def _percent(value: float) -> str:
    return f"{value:+.1f} %".replace("-", "−")


_JUDGES: Mapping[Kind, Callable[[Claim, Evidence], Finding]] = MappingProxyType(
    {
        "size": _size,
        "perplexity": _perplexity,
        "speed": _speed,
        "speed_ratio": _speed_ratio,
        "speed_order": _speed_order,
        "experts": _experts,
        "active_experts": _experts,
        "domain_ppl": _domain_ppl,
        "imatrix_gain": _imatrix_gain,
        "imatrix_domain": _imatrix_domain,
        "element_types": _element_types,
        "ppl_order": _ppl_order,
        "practice": _practice,
        "option": _option,
        "build": _build,
    }
)
