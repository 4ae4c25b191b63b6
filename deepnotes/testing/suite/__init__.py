"""The checks of the conformance suite, in one module per subject."""
