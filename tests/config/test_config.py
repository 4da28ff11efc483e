"""Settings: every mistake is one line that names the value and what is valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.config.values import parse_relative
from pytest_quantgate.errors import ConfigError

BASE = """
[tool.quantgate.models.m]
source = "m.gguf"
[tool.quantgate.texts.t]
source = "t.txt"
[tool.quantgate.profiles.p]
models = ["m"]
"""


def write(folder: Path, text: str) -> Path:
    """Write a pyproject.toml."""
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


AWAY = f"""
[tool.quantgate]
profile = "p"
[tool.quantgate.hosts.a]
ssh = "a"
[tool.quantgate.devices.away]
host = "a"
{BASE}
devices = ["away"]
"""
MISTAKES = {
    "wrong key at the top": (
        "[tool.quantgate]\nprofle = 1",
        ["[tool.quantgate] has the unknown key 'profle' (did you mean 'profile'?); valid: "],
    ),
    "wrong key of a model": (
        '[tool.quantgate.models.m]\nsorce = "x"\nsource = "y"',
        [
            "[tool.quantgate.models.m] has the unknown key 'sorce'",
            "valid: files, sha256, shape, source",
        ],
    ),
    "wrong key of a limit": (
        BASE + "[tool.quantgate.profiles.p.limits.Q4_0]\nppl_vs_refrence = 0.1",
        ["unknown key 'ppl_vs_refrence' (did you mean 'ppl_vs_reference'?)", "bits_per_weight_max"],
    ),
    "no source": ("[tool.quantgate.models.m]", ["models.m", 'either source = "PATH, package']),
    "both sources": (
        '[tool.quantgate.models.m]\nsource = "x"\nfiles = { F16 = "y" }',
        ["models.m", "either source"],
    ),
    "sha256 of the wrong shape": (
        '[tool.quantgate.models.m]\nsource = "x"\nsha256 = { F16 = "y" }',
        ["with source, sha256 is one string"],
    ),
    "an engine of both kinds": (
        '[tool.quantgate.engines.e]\npython = "p"\ntools = "t"',
        ["engines.e", 'either python = "INTERPRETER" or tools = "FOLDER", not both'],
    ),
    "arguments without programs": (
        '[tool.quantgate.engines.e]\narguments = ["-ngl", "99"]',
        ["engines.e", 'arguments are those of programs; add tools = "FOLDER"'],
    ),
    "an argument that the profile sets": (
        '[tool.quantgate.engines.e]\ntools = "t"\narguments = ["-c", "512"]',
        ["engines.e", "the argument -c is the profile's to set; use n_ctx"],
    ),
    "programs in a seeded order": (
        '[tool.quantgate]\nprofile = "p"\n[tool.quantgate.engines.e]\ntools = "t"\n'
        + BASE
        + 'engine = "e"\nchunk_order = "seeded"',
        [
            "engine 'e' is a folder of llama.cpp's programs",
            "set chunk_order = \"text\" in [tool.quantgate.profiles.p] (it is 'seeded')",
        ],
    ),
    "a text without a file": ("[tool.quantgate.texts.t]", ['either source = "PATH" or domains']),
    "a matrix of nothing": (
        "[tool.quantgate.imatrices.i]",
        ["imatrices.i", 'either text = "NAME" or file = "PATH.gguf"'],
    ),
    "a matrix of both": (
        '[tool.quantgate.imatrices.i]\ntext = "t"\nfile = "i.gguf"',
        ["imatrices.i", "either text"],
    ),
    "a matrix's file with a setting of a text": (
        '[tool.quantgate.imatrices.i]\nfile = "i.gguf"\nchunks = 4',
        ["a file is taken as it is: chunks goes only with text"],
    ),
    "a matrix called none": (
        '[tool.quantgate.imatrices.none]\ntext = "evaluation"',
        ["imatrices.none] stands for quantizing without", "choose another name"],
    ),
    "a matrix whose name cannot be in an id": (
        '[tool.quantgate.imatrices."a--b"]\ntext = "evaluation"',
        ["[tool.quantgate.imatrices] the name 'a--b'"],
    ),
    "a matrix of an unknown text": (
        '[tool.quantgate]\nprofile="p"'
        + BASE
        + 'imatrices = ["i"]\n[tool.quantgate.imatrices.i]\ntext = "wiki"',
        ["unknown text 'wiki'"],
    ),
    "an unknown matrix": (
        '[tool.quantgate]\nprofile="p"' + BASE + 'imatrices = ["calibrate"]',
        [
            "unknown imatrix 'calibrate' (did you mean 'calibration'?); valid: calibration, none",
            "add one as [tool.quantgate.imatrices.calibrate]",
        ],
    ),
    "no matrix at all": (BASE + "imatrices = []", ["imatrices is empty; name at least one"]),
    "a profile without models": ("[tool.quantgate.profiles.p]", ["profiles.p.models is missing"]),
    "an empty list": (BASE + "formats = []", ["formats is empty; name at least one"]),
    "a format twice": (BASE + 'formats = ["Q4_0", "Q4_0"]', ["formats has 'Q4_0' twice"]),
    "a number below its range": (BASE + "n_ctx = 4", ["profiles.p.n_ctx = 4", "greater than"]),
    "chunks of none": (BASE + "chunks = 0", ["profiles.p.chunks = 0"]),
    "looks that fall": (BASE + "looks = [8, 4]", ["looks = [8, 4] must rise and end at or below"]),
    "looks beyond the budget": (BASE + "chunks = 8\nlooks = [4, 16]", ["at or below chunks = 8"]),
    "an unknown order": (BASE + 'chunk_order = "random"', ["'seeded' or 'text'", "'random'"]),
    "an unknown KV type": (
        BASE + 'type_k = "Q9"',
        ["type_k = 'Q9' is no type of llama.cpp's keys and values; valid: F32, F16, BF16, Q8_0"],
    ),
    "a type that is no KV type": (BASE + 'type_v = "I8"', ["type_v = 'I8' is no type of"]),
    "a negative limit": (
        BASE + "[tool.quantgate.profiles.p.limits.Q4_0]\nppl_vs_reference = -0.1",
        ["ppl_vs_reference = -0.1: -0.1 is negative"],
    ),
    "a limit that is no number": (
        BASE + '[tool.quantgate.profiles.p.limits.Q4_0]\nppl_vs_reference = "much"',
        ["'much' is no relative change; write for example \"+5%\" or 0.05"],
    ),
    "a limit of NaN": (
        BASE + "[tool.quantgate.profiles.p.limits.Q4_0]\nppl_max = nan",
        ["is no finite number"],
    ),
    "a table of no domain": (
        BASE + '[tool.quantgate.profiles.p.limits."*"]\ndomains = {}',
        ["names none", "code"],
    ),
    "a negative limit of a domain": (
        BASE + '[tool.quantgate.profiles.p.limits."*"]\ndomains = { code = "-1%" }',
        ["-0.01 is negative"],
    ),
    "limits of an unknown format": (
        '[tool.quantgate]\nprofile="p"'
        + BASE
        + "[tool.quantgate.profiles.p.limits.Q4_9]\nppl_max = 20",
        ["unknown format 'Q4_9'"],
    ),
    "an unknown optional format": (
        '[tool.quantgate]\nprofile="p"' + BASE + 'optional = ["Q4_9"]',
        ["unknown format 'Q4_9'"],
    ),
    "an unknown profile": (
        '[tool.quantgate]\nprofile = "fast"' + BASE,
        ["unknown profile 'fast'; valid: default, p, sizes, smollm2; add one as [tool."],
    ),
    "an unknown model": (
        '[tool.quantgate]\nprofile = "q"\n[tool.quantgate.profiles.q]\nmodels = ["smollm"]',
        ["unknown model 'smollm' (did you mean 'smollm2'?); valid: lfm2-8b-a1b, "],
    ),
    "an unknown text": (
        '[tool.quantgate]\nprofile="p"' + BASE + 'texts = ["wiki"]',
        ["unknown text 'wiki'; valid: calibration, evaluation, t"],
    ),
    "an unknown device": (
        '[tool.quantgate]\nprofile="p"' + BASE + 'devices = ["gpu"]',
        ["unknown device 'gpu' (did you mean 'cpu'?); valid: cpu"],
    ),
    "an unknown engine": (
        '[tool.quantgate]\nprofile="p"' + BASE + 'engine = "new"',
        ["unknown engine 'new'; valid: default"],
    ),
    "an unknown format": (
        '[tool.quantgate]\nprofile="p"' + BASE + 'formats = ["Q4_9"]',
        ["unknown format 'Q4_9'", "did you mean Q4_"],
    ),
    "a name that cannot stand in an id": (
        '[tool.quantgate.models."a b"]\nsource = "x"',
        ["[tool.quantgate.models] the name 'a b' cannot stand in a cell's id"],
    ),
    "an old engine that a host does not have": (
        AWAY + 'against = "old"\n[tool.quantgate.engines.old]\npython = "/opt/old/bin/python"',
        ["engine 'old' has no interpreter; write old = ", "[tool.quantgate.hosts.a.engines]"],
    ),
    "programs on a host": (
        AWAY + 'engine = "old"\n[tool.quantgate.engines.old]\ntools = "/opt/llama"',
        ["engine 'old' is a folder of programs, which run on this machine alone"],
    ),
    "no TOML": ("[tool", ["is no valid TOML"]),
    "no table": ("[tool]\nquantgate = 3", ["tool.quantgate is no table but 3"]),
    "a stall of nothing": ("[tool.quantgate]\nstall_s = 0", ["stall_s = 0", "is not above zero"]),
    "a report of unknown kind": ('[tool.quantgate]\nreport = "r.pdf"', ["valid: .json, .md"]),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_one_line(tmp_path: Path, mistake: tuple[str, list[str]]) -> None:
    text, parts = mistake
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (Overrides(profile="x"), "unknown profile 'x'; valid: default, sizes, smollm2"),
        (
            Overrides(models=("x",)),
            "unknown model 'x'; valid: lfm2-8b-a1b, lfm2moe-mini",
        ),
        (Overrides(formats=("x",)), "unknown format 'x'"),
        (Overrides(formats=()), "formats is empty"),
        (Overrides(formats=("Q4_0", "Q4_0")), "twice"),
        (Overrides(devices=("x",)), "unknown device 'x'; valid: cpu"),
        (Overrides(texts=("x",)), "unknown text 'x'; valid: calibration, evaluation"),
        (Overrides(imatrices=("x",)), "unknown imatrix 'x'; valid: calibration, none"),
        (Overrides(engine="x"), "unknown engine 'x'; valid: default"),
        (Overrides(engine="python="), "--quant-engine 'python=' names no path; write python="),
        (Overrides(against="tools="), "--quant-against 'tools=' names no path"),
        (Overrides(engine="other=/x"), "unknown engine 'other=/x'"),
        (Overrides(reports=("x.pdf",)), "--quant-report 'x.pdf'"),
    ],
)
def test_a_mistake_on_the_command_line(tmp_path: Path, overrides: Overrides, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, overrides)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_any_configuration_the_embedded_models_are_measured(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert settings.uses_built_in_profile
    assert settings.profile.models == ("olmoe-mini", "lfm2moe-mini")
    assert (settings.profile.chunks, settings.profile.looks) == (16, None)
    assert len(settings.formats) == 14
    assert settings.baselines_dir == tmp_path / "baselines"


def test_smollm2_is_a_built_in_profile_of_its_own(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, Overrides(profile="smollm2"))
    assert settings.uses_built_in_profile
    assert settings.profile.models == ("smollm2",)
    assert settings.profile.looks == (4, 16)
    assert len(settings.formats) == 14


def test_the_command_line_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    write(tmp_path, '[tool.quantgate]\nprofile="p"' + BASE + 'texts=["t"]\nn_ctx = 128\n')
    settings = load_settings(tmp_path, Overrides(formats=("q8_0",)))
    assert [item.name for item in settings.formats] == ["Q8_0"]
    assert settings.profile.n_ctx == (128,)
    assert settings.profile.texts == ("t",)


def test_a_command_repeats_what_the_command_line_said() -> None:
    said = Overrides(models=("my model.gguf", "b"), texts=("held-out.txt",), reports=("run.md",))
    assert said.command == (
        "pytest --quant-matrix --quant-model 'my model.gguf,b' --quant-text held-out.txt"
    )
    assert Overrides().command == "pytest --quant-matrix"


def test_engines_may_be_described_on_the_command_line(tmp_path: Path) -> None:
    """As their tables would; the command that is repeated says it in the same words."""
    said = Overrides(engine="python=/new/bin/python", against="tools=/old/bin")
    settings = load_settings(
        write(
            tmp_path,
            '[tool.quantgate]\nprofile="p"' + BASE + 'texts=["t"]\nchunk_order = "text"',
        ),
        said,
    )
    assert (settings.profile.engine, settings.profile.against) == ("new", "old")
    assert settings.engines["new"] == EngineSettings(python="/new/bin/python")
    assert settings.engines["old"] == EngineSettings(tools="/old/bin")
    assert "--quant-engine python=/new/bin/python --quant-against tools=/old/bin" in (
        settings.overrides.command
    )


def test_programs_score_in_the_texts_order_unless_another_was_set(tmp_path: Path) -> None:
    assert load_settings(tmp_path).profile.chunk_order == "seeded"
    for said in (Overrides(engine="tools=build/bin"), Overrides(against="tools=build/bin")):
        assert load_settings(tmp_path, said).profile.chunk_order == "text"


def test_limits_find_their_format_by_alias(tmp_path: Path) -> None:
    text = BASE + '[tool.quantgate.profiles.p.limits.mxfp4]\nppl_vs_reference = "+5%"'
    settings = load_settings(write(tmp_path, '[tool.quantgate]\nprofile="p"' + text))
    assert settings.limits["MXFP4_MOE"].ppl_vs_reference == 0.05


def test_an_optional_format_may_be_an_alias(tmp_path: Path) -> None:
    text = '[tool.quantgate]\nprofile="p"' + BASE + 'optional = ["mxfp4"]'
    assert load_settings(write(tmp_path, text)).profile.optional == ("MXFP4_MOE",)


def test_limits_for_all_formats(tmp_path: Path) -> None:
    text = BASE + '[tool.quantgate.profiles.p.limits."*"]\nppl_vs_reference = "+5%"'
    settings = load_settings(write(tmp_path, '[tool.quantgate]\nprofile="p"' + text))
    assert settings.limits["*"].ppl_vs_reference == 0.05


@pytest.mark.parametrize(
    ("value", "number"),
    [("+5%", 0.05), ("5%", 0.05), ("-10%", -0.1), ("−10%", -0.1), (0.05, 0.05), ("0.05", 0.05)],
)
def test_relative_changes(value: object, number: float) -> None:
    assert parse_relative(value) == pytest.approx(number, abs=1e-15)


@pytest.mark.parametrize("value", ["", "%", "nan", "inf%", "five", True, None, float("nan"), [1]])
def test_what_is_no_relative_change(value: object) -> None:
    with pytest.raises(ValueError, match="is no relative change"):
        parse_relative(value)


@given(st.text(max_size=8))
def test_a_relative_change_is_finite_or_refused(text: str) -> None:
    try:
        number = parse_relative(text)
    except ValueError:
        return
    assert abs(number) < float("inf")


def test_limits_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Limits(), "ppl_max", 3.0)  # noqa: B010 # the fields come from a table
