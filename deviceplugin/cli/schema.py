"""``schema``: the configuration file's JSON schema, for editors and checks."""

from __future__ import annotations

import json

import click

from deviceplugin.config import schema


@click.command("schema")
def command() -> None:
    """Print the JSON schema of the configuration file."""
    click.echo(json.dumps(schema(), indent=2))
