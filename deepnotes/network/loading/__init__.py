"""Loading of networks from files and from other libraries' models."""
