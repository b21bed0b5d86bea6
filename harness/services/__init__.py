"""The servers of the embedded stack: one module per service, plus how they are fetched, run and looked after."""
