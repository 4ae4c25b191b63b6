"""A look inside a network: the trace of a step, activations, derivatives by the inputs, checks of gradients."""
