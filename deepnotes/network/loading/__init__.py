"""Loading of networks from files and from the models of other libraries."""
