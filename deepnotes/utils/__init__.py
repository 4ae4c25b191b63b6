"""Errors, argument checks, text streams and files for all other packages; this package imports none of those."""
