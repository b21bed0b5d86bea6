"""The machinery of dairyperf. Layers and what each may touch: README.md, "Where things are"."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]  # the tool runs from it: scenarios, fixtures and reports lie beside
