"""The figures that the tests in this folder measure: a JSON file, and a block of text for docs/gpu.md."""

import json
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from gpu.cards import Card

import lesioncli
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.process import count_cores

Value = str | int | float


@dataclass
class Figures:
    """Tables by title; the rows of a table have the same columns."""

    tables: dict[str, list[dict[str, Value]]] = field(default_factory=dict)

    def add(self, title: str, **row: Value) -> None:
        self.tables.setdefault(title, []).append(row)

    def describe(self, card: Card) -> None:
        """Add what was measured on."""
        version = find_gpus().cuda_version or (0, 0)
        self.add(
            "machine",
            gpu=str(card.gpu) if card.is_real else f"none: {card.gpu}, a stand-in; not a measurement of a GPU",
            driver_cuda=".".join(map(str, version)),
            cpu=_processor(),
            cores=count_cores(),
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
            lesioncli=lesioncli.__version__,
            date=datetime.now(UTC).date().isoformat(),
        )

    def text(self) -> str:
        """Return the block of text: one row per line."""
        lines = []
        for title, rows in self.tables.items():
            lines.append(title)
            lines += [
                "  " + "; ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in row.items())
                for row in rows
            ]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write figures.json and figures.txt."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "figures.json").write_text(json.dumps(self.tables, indent=1) + "\n")
        (folder / "figures.txt").write_text(self.text())


def _number(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
