"""The directive ``reference``: parts of the reference, made from the tables that the package reads.

    ```{reference} settings ProfileSettings
    ```

Each part is a function that returns Markdown; a page holds nothing that a table already says.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from pytest_quantgate import errors
from pytest_quantgate.config import schema, values
from pytest_quantgate.config.limit import Limit, Value
from pytest_quantgate.config.metrics import MARKERS
from pytest_quantgate.config.options import OPTIONS
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.verdicts import VerdictKind

PACKAGE = Path(errors.__file__).parent


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table; a bar inside a cell would end it."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in r] for r in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def code(text: object) -> str:
    """Return a piece of code in a line."""
    return f"`{text}`"


def attribute_docs(module: str) -> dict[tuple[str, str], str]:
    """Return the docstrings below the attributes of a module's classes, by class and attribute."""
    docs = ModuleAnalyzer.for_module(module).find_attr_docs()
    return {where: " ".join(lines).strip() for where, lines in docs.items()}


def toml(value: Any) -> str:
    """Return a default as the configuration would write it."""
    if value is None or (isinstance(value, Mapping | tuple) and not value):
        return ""
    return code(json.dumps(list(value) if isinstance(value, tuple) else value))


NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): ""}


def type_name(annotation: Any) -> str:
    """Return what a setting takes, in TOML's words."""
    if annotation in NAMES:
        return NAMES[annotation]
    arguments = get_args(annotation)
    match str(getattr(get_origin(annotation), "__name__", "")):
        case "Literal":
            return " or ".join(toml(item) for item in arguments)
        case "Annotated":
            return type_name(arguments[0])
        case "Mapping":
            return "table"
        case "tuple":
            return "list"
        case "Union" | "UnionType":
            return " or ".join(filter(None, map(type_name, arguments)))
    return "table"


def bounds(field: FieldInfo) -> str:
    """Return a setting's bounds."""
    least = [item.ge for item in field.metadata if hasattr(item, "ge")]
    return f" ≥ {least[0]}" if least and least[0] else ""


def is_table_of_tables(field: FieldInfo) -> bool:
    """Whether a setting has a heading of its own on the page."""
    last = (get_args(field.annotation) or (None,))[-1]
    return isinstance(last, type) and issubclass(last, values.Table)


def settings(name: str) -> list[str]:
    """Return the keys of a table of the configuration."""
    model: type[values.Table] = getattr(schema, name)
    docs = attribute_docs(model.__module__)
    rows = []
    for key, field in model.model_fields.items():
        if is_table_of_tables(field) and (name, key) not in docs:
            continue
        default = (
            "required"
            if field.is_required()
            else toml(field.get_default(call_default_factory=True))
        )
        kind = type_name(field.annotation) + bounds(field)
        rows.append([code(key), kind, default, docs[name, key]])
    return table(["key", "type", "default", "meaning"], rows)


def options() -> list[str]:
    """Return the options of the command line."""
    return table(
        ["option", "instead of", "meaning"],
        (
            [
                code(" ".join([option.flag, *filter(None, [option.metavar])])),
                code(option.instead_of) if option.instead_of else "",
                option.help
                + (f": {' or '.join(map(code, option.choices))}" if option.choices else ""),
            ]
            for option in OPTIONS
        ),
    )


def limit_value(limit: Limit, number: float) -> str:
    """Return a limit's value as the configuration writes it."""
    if limit.value in (Value.INCREASE, Value.DECREASE):
        return code(f'"{100 * number:+g}%"')
    return code(f"{number:g}")


def default_of(limit: Limit) -> str:
    """Return a limit's default, by bits per weight where it depends on these."""
    if not callable(limit.default):
        return "none" if limit.default is None else limit_value(limit, limit.default)
    grid = [bits / 4 for bits in range(64, 0, -1)]
    steps = [(grid[0], limit.default(grid[0]))]
    for above, bits in pairwise(grid):
        if limit.default(bits) != limit.default(above):
            steps.append((above, limit.default(bits)))
    first, *rest = [(bits, limit_value(limit, number)) for bits, number in steps]
    return ", ".join([first[1], *(f"{text} below {bits:g} bits" for bits, text in rest)])


def limits() -> list[str]:
    """Return the limits, with the keyword of the marker that sets each."""
    rows = []
    for marker in MARKERS.values():
        for limit in marker.limits:
            phase = f'phase="{limit.phase}", ' if limit.phase else ""
            keyword = code(f"{marker.marker}({phase}{limit.keyword}=…)") if limit.keyword else ""
            figure = limit.figure + (f", {limit.unit}" if limit.unit else "")
            against = limit.scope.value
            names = "<br>".join(filter(None, [code(limit.name), keyword]))
            rows.append([names, figure, against, limit.value.value, default_of(limit)])
    heads = ["limit, and the marker's keyword", "judged figure", "held against", "value", "default"]
    return table(heads, rows)


def markers() -> list[str]:
    """Return the markers with their keywords, and the limit that each keyword sets."""
    rows = []
    for marker in MARKERS.values():
        named: dict[str, list[str]] = {keyword: [] for keyword in marker.all_keywords}
        for limit in marker.limits:
            if limit.keyword:
                named[limit.keyword].append(limit.name)
        for keyword, name in marker.borrows.items():
            named[keyword].append(name)
        keywords = "; ".join(
            f"{code(keyword)} ({', '.join(map(code, names))})" if names else code(keyword)
            for keyword, names in named.items()
        )
        rows.append([code(marker.marker), marker.help, keywords])
    return table(["marker", "meaning", "keywords (limit)"], rows)


def first_line(node: ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef | ast.Module) -> str:
    """Return the first line of a docstring, with its code as Markdown writes it."""
    return (ast.get_docstring(node) or "").partition("\n\n")[0].replace("``", "`")


def functions(path: str, below: str | None, decorator: str) -> list[str]:
    """Return the public functions of a module or class that are decorated so, and what they say."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    body = tree.body
    if below is not None:
        body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == below).body
    return table(
        ["name", "meaning"],
        (
            [code(node.name), first_line(node).replace("\n", " ")]
            for node in body
            if isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and any(decorator in ast.unparse(item) for item in node.decorator_list)
        ),
    )


def fields(name: str) -> list[str]:
    """Return the keys of a file with what each holds."""
    module = sys.modules[FILES[name].__module__]
    docs = attribute_docs(module.__name__)
    return table(
        ["key", "value"], ([code(key), docs[name, key]] for key in FILES[name].model_fields)
    )


def fixtures() -> list[str]:
    """Return the public fixtures."""
    return functions("plugin/fixtures.py", None, "fixture")


def cell() -> list[str]:
    """Return what ``quant_cell`` has."""
    return functions("metrics/measured_cell.py", "MeasuredCell", "property")


def error_classes() -> list[str]:
    """Return the tree of exceptions."""
    rows = []
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.QuantgateError):
            base = kind.__bases__[0].__name__
            doc = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
            rows.append([code(name), code(base), doc])
    return table(["class", "derived from", "meaning"], rows)


def color(kind: VerdictKind) -> str:
    """Return whether a verdict fails its cell's test."""
    if kind is VerdictKind.UNSUPPORTED:
        return "red, or skipped"
    return "green" if kind.is_green else "red"


def verdicts() -> list[str]:
    """Return the verdicts."""
    docs = attribute_docs("pytest_quantgate.results.verdicts")
    return table(
        ["verdict", "", "meaning"],
        ([kind.value, color(kind), docs["VerdictKind", kind.name]] for kind in VerdictKind),
    )


FILES: Mapping[str, type[BaseModel]] = {"Baseline": Baseline}
"""The files whose keys a page describes."""

SCHEMAS: Mapping[str, dict[str, Any]] = {
    "run-record": TypeAdapter(RunRecord).json_schema(mode="serialization"),
    "baseline": Baseline.model_json_schema(mode="serialization"),
}


def json_type(node: Mapping[str, Any]) -> str:
    """Return the type of a key in a JSON schema."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in node:
        return " or ".join(json_type(item) for item in node["anyOf"])
    if "const" in node or "enum" in node:
        return ", ".join(toml(item) for item in node.get("enum", [node.get("const")]))
    kind = str(node.get("type", "anything"))
    if kind == "array" and isinstance(node.get("items"), dict):
        return f"array of {json_type(node['items'])}"
    if kind == "object" and isinstance(node.get("additionalProperties"), dict):
        return f"object of {json_type(node['additionalProperties'])}"
    return kind


def json_schema(name: str) -> list[str]:
    """Return the keys of a file, and those of the objects in it."""
    root = SCHEMAS[name]
    lines: list[str] = []
    for title, node in [(None, root), *root["$defs"].items()]:
        if title is not None:
            anchor = f"({title.lower()})=" if name == "run-record" else f"({name}-{title.lower()})="
            lines += ["", anchor, f"**{title}**", ""]
        if "enum" in node:
            lines.append(json_type(node))
            continue
        required = node.get("required", ())
        lines += table(
            ["key", "type", ""],
            (
                [code(key), json_type(item), "" if key in required else "optional"]
                for key, item in node["properties"].items()
            ),
        )
    prefix = "" if name == "run-record" else f"{name}-"
    return [line.replace("](#", f"](#{prefix}") for line in lines]


PARTS: Mapping[str, Callable[..., list[str]]] = {
    "options": options,
    "settings": settings,
    "limits": limits,
    "markers": markers,
    "fields": fields,
    "fixtures": fixtures,
    "quant_cell": cell,
    "errors": error_classes,
    "verdicts": verdicts,
    "json": json_schema,
}


WIDE = frozenset({"limits", "json"})
"""The parts whose columns need their headings: on a phone they scroll."""


class Reference(SphinxDirective):
    """A part of the reference."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the part, as the page's own parser reads it."""
        self.env.note_reread()
        name, *arguments = self.arguments
        container = nodes.container(classes=[] if name in WIDE else ["listing"])
        lines = StringList(PARTS[name](*arguments), source=__file__)
        self.state.nested_parse(lines, self.content_offset, container)
        return [container]


def write_schemas(app: Sphinx, error: Exception | None) -> None:
    """Write the JSON schemas beside the pages."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / "schemas"
        folder.mkdir(exist_ok=True)
        for name, content in SCHEMAS.items():
            draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}
            text = json.dumps(draft, indent=1, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def check_readme(_app: Sphinx) -> None:
    """Warn of a README whose parts are not those that the tables give now."""
    readme = PACKAGE.parent / "README.md"
    page = readme.read_text(encoding="utf-8")
    if with_made_parts(page) != page:
        logging.getLogger(__name__).warning(
            "README.md is out of date; type python docs/_ext/reference_tables.py README.md"
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("reference", Reference)
    app.connect("builder-inited", check_readme)
    app.connect("build-finished", write_schemas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


_MADE = re.compile(
    r"(?P<begin><!-- made by docs/_ext/reference_tables\.py: (?P<part>\w+) -->\n)"
    r".*?(?=<!-- end -->)",
    re.DOTALL,
)


def with_made_parts(page: str) -> str:
    """Return a page that no builder makes, such as README.md, with its parts made anew."""
    return _MADE.sub(lambda m: m["begin"] + "\n".join([*PARTS[m["part"]](), ""]), page)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_made_parts(path.read_text(encoding="utf-8")), encoding="utf-8")
