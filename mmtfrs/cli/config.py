"""`mmtfrs config`: what can be set, what it is set to, and whether a file is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mmtfrs.cli.console import CommandLine, show
from mmtfrs.cli.options import Json
from mmtfrs.config.config import Config

app = CommandLine()


@app.command("config")
def config_command(
    file: Annotated[Path | None, typer.Argument(help="YAML file; the defaults if none.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print a JSON Schema of the file, for editors.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    as_json: Json = False,
) -> None:
    """Print every setting with its value, default, range and meaning; a file with a mistake is refused."""
    config = Config.read(file) if file else Config()
    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return
    rows = [row for row in settings(config) if not changed or row["value"] != row["default"]]
    table = Table()
    for heading in ("setting", "value", "default", "range", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        value, default = _text(row["value"]), _text(row["default"])
        table.add_row(row["setting"], value, "" if value == default else default, row["range"], row["meaning"])
    show({"settings": rows}, as_json, table if rows else "every setting has its default")


def settings(config: Config) -> Iterator[dict[str, Any]]:
    """`{setting, value, default, range, meaning}` of each setting, as `model.fusion`, in the order of the sections."""
    schema = Config.model_json_schema()
    yield from _walk(schema, schema["$defs"], config.model_dump(mode="json"), Config().model_dump(mode="json"), "")


def _walk(schema: dict, sections: dict, values: dict, defaults: dict, prefix: str) -> Iterator[dict[str, Any]]:
    for name, field in schema["properties"].items():
        section = field.get("$ref") or next((each["$ref"] for each in field.get("allOf", ())), None)
        if section:
            yield from _walk(sections[section.rpartition("/")[2]], sections, values[name], defaults[name], f"{prefix}{name}.")
        else:
            yield {
                "setting": f"{prefix}{name}",
                "value": values[name],
                "default": defaults[name],
                "range": _range(field),
                "meaning": field.get("description", ""),
            }


def _range(field: dict) -> str:
    """What a value may be, in words of the schema."""
    if "anyOf" in field:
        return " or ".join("none" if each.get("type") == "null" else _range(each) for each in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if "pattern" in field:
        return "package.module:Name"
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in field
    ]
    kind = {
        "integer": "integer",
        "number": "number",
        "boolean": "true, false",
        "string": "text",
        "array": "list",
        "object": "mapping",
    }.get(field.get("type", ""), "")
    return " ".join([kind, ", ".join(bounds)]).strip()


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
