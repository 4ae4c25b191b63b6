"""Networks made from files and from other libraries' models."""
