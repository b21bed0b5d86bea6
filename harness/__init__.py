"""The machinery of dairyperf. Layers and what each may touch: README.md, "Where things are"."""
