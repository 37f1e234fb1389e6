"""docs/handlers.md: each RuntimeClass names a handler of the configuration above it; classes are read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from crib.wire import blockio_config

PAGE = (Path(__file__).parents[3] / "docs" / "handlers.md").read_text()
BLOCKS = re.findall(r"```(toml|yaml)\n(.*?)```", PAGE, re.S)


def test_each_runtime_class_names_a_handler_of_the_example_above_it() -> None:
    classes, above = [], ""
    for kind, text in BLOCKS:
        if kind == "toml":
            above = text
        elif "RuntimeClass" in text:
            classes.append((yaml.safe_load(text), tomllib.loads(above)))
    assert len(classes) >= 4
    for class_, configuration in classes:
        assert class_["kind"] == "RuntimeClass"
        assert class_["handler"] in configuration["handlers"]


def test_the_example_of_block_io_classes_is_read() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "yaml" and text.startswith("classes:")]
    (slow,) = blockio_config.decode(text.encode()).values()
    assert slow[0].weight == 50
    assert slow[1].read_bps == 20_000_000
